"""Decoders of neural anchors: against the equations in float64, and these against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rendering.models.anchor_pages import page_of
from rendering.models.anchors_native import (
    AnchorCuller,
    NativeDecoder,
    instruction_sets,
)
from rendering.models.anchors_reference import appearance_of, decode_anchors, evaluate
from splat.anchors import AnchorModel
from splat.bounds import ViewVolume
from splat.camera import CameraModel
from splat.errors import BackendUnavailable
from splat.gaussians import Gaussians
from splat.networks import Activation, Layer, Mlp, without_inputs
from splat.rows import Rows
from tests.models.anchor_scenes import random_anchors, scene_of
from tests.models.anchors_torch import ARCHITECTURES, random_net
from tests.scenes import orbit_camera

CENTER = np.array([1.0, 2.0, -6.0])
CLOSE = 1e-4
F32 = np.float32


def decoded(
    model: AnchorModel,
    rows: Rows,
    center: np.ndarray = CENTER,
    *,
    chosen: np.ndarray | None = None,
    least: float = 0.0,
    instruction_set: str | None = None,
) -> Gaussians:
    """By the native decoder."""
    count = len(rows) if chosen is None else len(chosen)
    out = Gaussians.allocate(count * model.layout.offsets, 0)
    decoder = NativeDecoder(model, instruction_set=instruction_set)
    page = page_of(rows.data, model.layout)
    return out[: decoder.decode(page, chosen, center, least, out)]


def assert_close(found: Gaussians, expected: Gaussians) -> None:
    assert len(found) == len(expected) > 0
    for values, truth in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(values, truth, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reference_is_what_torch_says(architecture: str) -> None:
    net = random_net(ARCHITECTURES[architecture], 60).double()
    model, rows = scene_of(net)
    look = torch.from_numpy(appearance_of(model))
    with torch.no_grad():
        truth = net.decode(torch.from_numpy(CENTER), look if len(look) else None)
    drawn = decode_anchors(model, rows, CENTER)
    at = truth.anchors.numpy(), truth.slots.numpy()
    assert np.array_equal(np.argwhere(drawn.opacities > 0), np.stack(at, axis=1))
    for name in ("means", "quats", "scales", "opacities", "colors"):
        expected = getattr(truth, name).numpy()
        np.testing.assert_allclose(getattr(drawn, name)[at], expected, atol=1e-5)


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_native_decoder_is_the_reference(architecture: str, instruction_set: str) -> None:
    model, rows = random_anchors(architecture, 203)  # no multiple of any vector's lanes
    found = decoded(model, rows, instruction_set=instruction_set)
    assert_close(found, decode_anchors(model, rows, CENTER).gaussians())


@pytest.mark.parametrize("instruction_set", instruction_sets())
def test_an_anchor_is_the_same_whoever_is_beside_it(instruction_set: str) -> None:
    model, rows = random_anchors("octree-all", 120)
    whole = decoded(model, rows, instruction_set=instruction_set)
    some = np.flatnonzero(np.random.default_rng(3).random(120) < 0.4).astype(np.int32)
    chosen = decoded(model, rows, chosen=some, instruction_set=instruction_set)
    alone = Gaussians.concatenate(
        [decoded(model, rows[i : i + 1], instruction_set=instruction_set) for i in some]
    )
    assert [a.tobytes() for a in chosen.arrays] == [a.tobytes() for a in alone.arrays]
    assert 0 < len(chosen) < len(whole)


def test_levels_come_with_the_camera() -> None:
    """At each distance the levels that Octree-GS would draw there, and no others."""
    for architecture in ("octree", "octree-floor", "octree-ceil", "octree-progressive"):
        model, rows = random_anchors(architecture, 150)
        counts = []
        for distance in (3.0, 9.0, 27.0, 81.0):
            center = np.array([0.3, distance, 0.1])
            truth = decode_anchors(model, rows, center).gaussians()
            assert_close(decoded(model, rows, center), truth)
            counts.append(len(truth))
        assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_faint_gaussians_may_be_left_out() -> None:
    model, rows = random_anchors("scaffold", 50)
    truth = decode_anchors(model, rows, CENTER).gaussians(0.3)
    assert_close(decoded(model, rows, least=0.3), truth)
    assert len(decoded(model, rows, least=1.0)) == 0


def test_far_from_the_origin_directions_keep_their_digits() -> None:
    model, rows = random_anchors("scaffold-dist", 80)
    far = np.array([65536.0, -32768.0, 16384.0])  # exact in float32
    data = rows.data.copy()
    data[:, :3] = np.round(data[:, :3] * 64) / 64 + far
    there = Rows(data)
    truth = decode_anchors(model, there, CENTER + far + 1e-4).gaussians()
    found = decoded(model, there, CENTER + far + 1e-4)
    assert len(found) == len(truth)
    np.testing.assert_allclose(found.sh, truth.sh, atol=CLOSE)


def test_an_anchor_where_the_camera_is() -> None:
    model, rows = random_anchors("scaffold-bank", 40)
    here = rows.data[7, :3].astype(np.float64)
    found = decoded(model, rows, here)
    assert all(np.isfinite(array).all() for array in found.arrays)
    assert_close(found, decode_anchors(model, rows, here).gaussians())


def test_a_rotation_of_no_length_is_none() -> None:
    model, rows = random_anchors("scaffold-small", 30)
    still = Mlp(
        model.covariance_mlp.inputs,
        (Layer(np.zeros((21, model.covariance_mlp.inputs), F32), np.zeros(21, F32)),),
    )
    model = AnchorModel(model.layout, model.opacity_mlp, model.color_mlp, still)
    assert_close(decoded(model, rows), decode_anchors(model, rows, CENTER).gaussians())
    np.testing.assert_array_equal(decoded(model, rows).quats[0], [1, 0, 0, 0])


@pytest.mark.parametrize("model", list(CameraModel))
def test_no_visible_gaussian_is_culled(model: CameraModel) -> None:
    anchors, rows = random_anchors("scaffold", 400, seed=5)
    page = page_of(rows.data, anchors.layout)
    for angle in (0.0, 2.0, 4.0):
        view = orbit_camera(model, 40, 30, angle)
        volume = ViewVolume.of(view)
        kept = AnchorCuller([volume]).anchors_in_view(page)
        drawn = decode_anchors(anchors, rows, view.position)
        means = drawn.means.reshape(-1, 3).astype(np.float32)
        largest = drawn.scales.max(axis=-1).reshape(-1).astype(np.float32)
        seen = volume.may_see(means, means, largest).reshape(400, -1)
        needed = np.flatnonzero((seen & (drawn.opacities > 0)).any(axis=1))
        assert set(needed.tolist()) <= set(kept.tolist())
        assert len(kept) < 400  # or nothing would be culled


def test_two_views_keep_what_either_sees() -> None:
    anchors, rows = random_anchors("scaffold", 300)
    page = page_of(rows.data, anchors.layout)
    volumes = [
        ViewVolume.of(orbit_camera(CameraModel.PINHOLE, 30, 20, angle)) for angle in (0.0, 2.5)
    ]
    each = [set(AnchorCuller([volume]).anchors_in_view(page).tolist()) for volume in volumes]
    assert set(AnchorCuller(volumes).anchors_in_view(page).tolist()) == each[0] | each[1]


@pytest.mark.parametrize("model", list(CameraModel))
def test_boxes_in_view_are_those_of_the_volumes(model: CameraModel) -> None:
    random = np.random.default_rng(3)
    low = random.normal(scale=8.0, size=(3000, 3)).astype(F32)
    high = low + 10 ** random.uniform(-3, 1, (3000, 3)).astype(F32)
    largest = 10 ** random.uniform(-4, 0, 3000).astype(F32)
    volumes = [ViewVolume.of(orbit_camera(model, 30, 20, angle)) for angle in (0.0, 2.5)]
    either = np.logical_or(*(volume.may_see(low, high, largest) for volume in volumes))
    assert 100 < either.sum() < 2900
    seen = AnchorCuller(volumes).pages_in_view(low, high, largest)
    np.testing.assert_array_equal(seen, either)
    assert not len(AnchorCuller(volumes).pages_in_view(low[:0], high[:0], largest[:0]))


@pytest.mark.parametrize("model", list(CameraModel))
def test_many_groups_of_anchors_are_asked_for_at_once(model: CameraModel) -> None:
    anchors, rows = random_anchors("scaffold", 300)
    page = page_of(rows.data, anchors.layout)
    culler = AnchorCuller([ViewVolume.of(orbit_camera(model, 30, 20, a)) for a in (0.0, 0.5)])
    in_view = set(culler.anchors_in_view(page).tolist())
    random = np.random.default_rng(1)
    groups = [random.choice(300, size, replace=False) for size in [0, 1, 1, 2, 2, 3, 17] * 5]
    seen = culler.any_in_view([np.ascontiguousarray(page.spheres[:, each]) for each in groups])
    assert seen.tolist() == [not in_view.isdisjoint(each.tolist()) for each in groups]
    assert 5 < seen.sum() <= 30  # of 35
    assert not len(culler.any_in_view([]))


def test_what_was_not_chosen_is_missing() -> None:
    anchors, rows = random_anchors("scaffold", 50)
    page = page_of(rows.data, anchors.layout)
    for chosen in ([], [0], [49], [3, 4, 40], list(range(50))):
        missing = AnchorCuller.missing(page, np.array(chosen, np.int32))
        np.testing.assert_array_equal(missing, np.delete(page.spheres, chosen, axis=1))
        assert missing.flags.c_contiguous
    for chosen in ([4, 3], [50], [7, 7], [-1]):
        with pytest.raises(ValueError, match="must ascend"):
            AnchorCuller.missing(page, np.array(chosen, np.int32))


def test_spheres_hold_what_they_should() -> None:
    model, rows = random_anchors("scaffold", 100)
    page = page_of(rows.data, model.layout)
    drawn = decode_anchors(model, rows, CENTER)
    aside = np.linalg.norm(drawn.means - rows.data[:, None, :3], axis=2).max(axis=1)
    assert (aside <= page.spheres[3]).all()
    assert (drawn.scales.max(axis=(1, 2)) <= page.spheres[4]).all()
    assert (drawn.means >= page.low - 1e-5).all() and (drawn.means <= page.high + 1e-5).all()


def test_inputs_that_never_change_are_part_of_the_biases() -> None:
    random = np.random.default_rng(1)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(F32)

    layers = (
        Layer(normal(8, 5), normal(8), Activation.RELU),
        Layer(normal(4, 13), normal(4), skip=True),
        Layer(normal(2, 4), normal(2), Activation.SIGMOID),
    )
    mlp, fixed = Mlp(5, layers), random.normal(size=2)
    inputs = random.normal(size=(7, 3))
    whole = np.concatenate([inputs, np.broadcast_to(fixed, (7, 2))], axis=1)
    fewer = without_inputs(mlp, fixed)
    assert fewer.inputs == 3
    np.testing.assert_allclose(evaluate(fewer, inputs), evaluate(mlp, whole), atol=1e-6)


def test_a_camera_has_its_look() -> None:
    model, rows = random_anchors("scaffold-appearance", 40)
    out = Gaussians.allocate(400, 0)
    page = page_of(rows.data, model.layout)
    looks = []
    for camera in (0, 3):
        count = NativeDecoder(model, camera).decode(page, None, CENTER, 0.0, out)
        truth = decode_anchors(model, rows, CENTER, appearance_of(model, camera)).gaussians()
        np.testing.assert_allclose(out[:count].sh, truth.sh, atol=CLOSE)
        looks.append(truth.sh)
    assert np.abs(looks[0] - looks[1]).max() > 0.1


def test_senseless_calls_are_refused() -> None:
    model, rows = random_anchors("scaffold", 20)
    page, decoder = page_of(rows.data, model.layout), NativeDecoder(model)
    out = Gaussians.allocate(200, 0)
    with pytest.raises(ValueError, match="beyond the rows"):
        decoder.decode(page, np.array([20], np.int32), CENTER, 0.0, out)
    with pytest.raises(ValueError, match="too little room"):
        decoder.decode(page, None, CENTER, 0.0, out, first=1)
    other_model, others = random_anchors("octree", 5)
    stranger = page_of(others.data, other_model.layout)
    with pytest.raises(ValueError, match="another width"):
        decoder.decode(stranger, None, CENTER, 0.0, out)
    with pytest.raises(BackendUnavailable, match="does not run"):
        NativeDecoder(model, instruction_set="abacus")


@pytest.mark.parametrize("threads", [1, 3])
def test_pages_decoded_together_are_those_decoded_alone(threads: int) -> None:
    model, rows = random_anchors("octree-all", 200)
    decoder = NativeDecoder(model)
    pages = [page_of(rows.data[first : first + 50], model.layout) for first in range(0, 200, 50)]
    chosen = [None, np.array([3, 7, 49], np.int32), np.zeros(0, np.int32), None]
    out = Gaussians.allocate(103 * decoder.offsets, 0)
    places = decoder.decode_many(list(zip(pages, chosen, strict=True)), CENTER, 0.1, out, threads)
    end = 0
    for page, some, (first, count) in zip(pages, chosen, places, strict=True):
        assert first >= end
        end = first + count
        alone = Gaussians.allocate(50 * decoder.offsets, 0)
        expected = alone[: decoder.decode(page, some, CENTER, 0.1, alone)]
        assert len(expected) == count
        found = out[first:end]
        assert [a.tobytes() for a in found.arrays] == [a.tobytes() for a in expected.arrays]


def test_many_pages_need_room_for_all_of_them() -> None:
    model, rows = random_anchors("scaffold", 40)
    decoder = NativeDecoder(model)
    page = page_of(rows.data, model.layout)
    out = Gaussians.allocate(79 * decoder.offsets, 0)
    with pytest.raises(ValueError, match="too little room"):
        decoder.decode_many([(page, None), (page, None)], CENTER, 0.0, out, 2)
    assert decoder.decode_many([], CENTER, 0.0, out, 2) == []
