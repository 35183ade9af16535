"""Which variant of the components is chosen, and what stays unloaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rendering.models.components import Variant, components_for
from splat.errors import BackendUnavailable
from tests.models.field_scenes import instant_ngp


def test_the_processor_has_native_components() -> None:
    assert components_for().variant is Variant.NATIVE
    assert components_for("cpu", Variant.TORCH).variant is Variant.TORCH
    assert components_for("cpu", Variant.REFERENCE).variant is Variant.REFERENCE


def test_native_components_run_on_no_other_device() -> None:
    with pytest.raises(BackendUnavailable, match="cuda:0"):
        components_for("cuda:0", Variant.NATIVE)


def test_torch_is_not_loaded_for_native_components() -> None:
    code = (
        "import sys; from rendering.models.components import components_for; "
        "components_for(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_torch_in_single_precision_is_close_to_the_reference() -> None:
    rng = np.random.default_rng(41)
    network, x = instant_ngp(rng), rng.random((3, 500)).astype(np.float32)
    fast = components_for("cpu", Variant.TORCH).network(network)
    exact = components_for("cpu", Variant.REFERENCE).network(network)
    for found, expected in zip(fast.evaluate(x, x), exact.evaluate(x, x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert 0 < fast.nbytes < exact.nbytes
