"""Native encodings and networks against the reference in float64, whatever they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rendering.models.components import (
    Components,
    Domain,
    Samples,
    Variant,
    components_for,
)
from rendering.models.components.native import NativeComponents, instruction_sets
from rendering.models.native import _neural
from splat.fields import (
    Contraction,
    Encoding,
    FrequencyEncoding,
    GridLevel,
    HashGridEncoding,
    Network,
    PlaneEncoding,
    SphericalHarmonicsEncoding,
)
from splat.networks import Activation, Layer, Mlp
from tests.models.field_scenes import (
    Float32Array,
    encodings,
    instant_ngp,
    networks,
    random_grid,
    random_layer,
    random_mlp,
)

INSTRUCTION_SETS = instruction_sets()
SIZES = (1, 47, 48, 49, 500)  # blocks are of 48
ENCODINGS = list(encodings(np.random.default_rng(0)))
NETWORKS = list(networks(np.random.default_rng(0)))
HARMONICS = ("harmonics", "remapped")


@pytest.fixture(params=INSTRUCTION_SETS)
def native(request: pytest.FixtureRequest) -> NativeComponents:
    return NativeComponents(2, request.param)


@pytest.fixture(scope="module")
def reference() -> Components:
    return components_for(variant=Variant.REFERENCE)


def unit_vectors(rng: np.random.Generator, count: int) -> Float32Array:
    v = rng.normal(size=(3, count))
    unit: Float32Array = (v / np.linalg.norm(v, axis=0)).astype(np.float32)
    return unit


def positions_for(name: str, rng: np.random.Generator, count: int) -> Float32Array:
    if name.startswith(HARMONICS):
        return unit_vectors(rng, count)
    return rng.uniform(-0.1, 1.1, (3, count)).astype(np.float32)


@pytest.mark.parametrize("activation", Activation)
def test_mlp(native: NativeComponents, reference: Components, activation: Activation) -> None:
    rng = np.random.default_rng(1)
    for width in (1, 3, 8, 13, 64):
        mlp = Mlp(
            5,
            (
                random_layer(rng, 5, 17),
                random_layer(rng, 22, width, activation, skip=True),
                random_layer(rng, width, 9, Activation.NONE),
            ),
        )
        for count in SIZES[:4]:
            x = rng.normal(size=(5, count)).astype(np.float32) * 2
            expected = reference.mlp(mlp, x)
            np.testing.assert_allclose(native.mlp(mlp, x), expected, rtol=1e-4, atol=2e-5)


def test_mlp_of_the_widest_layers(native: NativeComponents, reference: Components) -> None:
    mlp = random_mlp(np.random.default_rng(2), 1024, 1024, 3)
    x = np.random.default_rng(3).normal(size=(1024, 50)).astype(np.float32)
    np.testing.assert_allclose(native.mlp(mlp, x), reference.mlp(mlp, x), atol=1e-4)


def test_an_mlp_without_layers_passes_its_input_on(native: NativeComponents) -> None:
    x = np.arange(300, dtype=np.float32).reshape(3, 100)
    np.testing.assert_array_equal(native.mlp(Mlp(3), x), x)


# Relative to the exact value: what elementary.h promises.
Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]
ELEMENTARY: dict[Activation, tuple[Function, float, tuple[float, float]]] = {
    Activation.EXP: (np.exp, 1e-7, (-87.0, 15.0)),
    Activation.SIGMOID: (lambda x: 1 / (1 + np.exp(-x)), 2e-7, (-86.0, 80.0)),
    Activation.TANH: (np.tanh, 2e-7, (-20.0, 20.0)),
    Activation.SOFTPLUS: (lambda x: np.logaddexp(0, x), 2e-7, (-86.0, 80.0)),
}


@pytest.mark.parametrize("activation", ELEMENTARY)
def test_elementary_functions_are_as_accurate_as_promised(
    native: NativeComponents, activation: Activation
) -> None:
    function, error, (low, high) = ELEMENTARY[activation]
    small = np.logspace(-20, 0, 2000)
    x = np.concatenate([np.linspace(low, high, 40_000), small, -small]).astype(np.float32)
    one = Layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32), activation)
    y = native.mlp(Mlp(1, (one,)), x[None])[0].astype(np.float64)
    exact = function(x.astype(np.float64))
    assert np.abs(y / exact - 1).max() < error


def test_sines_are_accurate_far_from_zero(native: NativeComponents) -> None:
    x = np.random.default_rng(4).uniform(-30, 30, (1, 20_000)).astype(np.float32)
    frequencies = tuple(float(2.0**k * np.pi) for k in range(11))
    encoding = FrequencyEncoding(frequencies, dims=1, includes_input=False)
    angles = np.array(frequencies)[:, None] * x.astype(np.float64)
    expected = np.stack([np.sin(angles), np.cos(angles)], 1).reshape(22, -1)
    assert np.abs(native.encode(encoding, x) - expected).max() < 2e-7


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings(native: NativeComponents, reference: Components, name: str) -> None:
    rng = np.random.default_rng(5)
    encoding = encodings(rng)[name]
    for count in SIZES:
        x = positions_for(name, rng, count)
        expected = reference.encode(encoding, x)
        np.testing.assert_allclose(native.encode(encoding, x), expected, rtol=1e-4, atol=5e-5)


def test_harmonics_have_the_signs_of_tiny_cuda_nn(reference: Components) -> None:
    x, y, z = v = unit_vectors(np.random.default_rng(6), 10)
    rows = reference.encode(SphericalHarmonicsEncoding(3), v)
    by_hand = [
        np.full_like(x, 0.28209479),
        -0.48860251 * y,
        0.48860251 * z,
        -0.48860251 * x,
        1.09254843 * x * y,
        -1.09254843 * y * z,
        0.94617470 * z * z - 0.31539157,
        -1.09254843 * x * z,
        0.54627422 * (x * x - y * y),
    ]
    np.testing.assert_allclose(rows, by_hand, atol=1e-6)


def test_float16_tables_are_read_to_the_bit(native: NativeComponents) -> None:
    """Every finite value, denormals too, as vertices of a dense grid are looked at."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    values = values[np.isfinite(values)]
    side = 40
    table = np.zeros((side**3, 1), np.float16)
    table[: len(values), 0] = values
    level = GridLevel(float(side - 1), side, False, side**3, 0)
    for features in (1, 2):
        grid = HashGridEncoding((level,), np.repeat(table, features, 1), 0.0)
        index = np.arange(len(values))
        vertex = np.stack([index % side, index // side % side, index // side**2])
        out = native.encode(grid, (vertex / (side - 1)).astype(np.float32))
        # A vertex that is missed by a rounding error has a part of its neighbours.
        scale = np.abs(values.astype(np.float64)).max()
        error = np.abs(out - values.astype(np.float64)) / scale
        assert error.max() < 1e-4
        exact = (vertex / (side - 1)).astype(np.float32) * np.float32(side - 1) == vertex
        there = exact.all(axis=0)
        assert there.sum() > 10_000
        np.testing.assert_array_equal(out[:, there], np.tile(values[there], (features, 1)))


@pytest.mark.parametrize("contraction", Contraction)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(
    native: NativeComponents, reference: Components, name: str, contraction: Contraction
) -> None:
    rng = np.random.default_rng(7)
    network, domain = networks(rng)[name], Domain(contraction)
    ours, exact = native.network(network, domain), reference.network(network, domain)
    spread = 0.6 if contraction is Contraction.NONE else 3.0
    for count in SIZES:
        positions = rng.uniform(0.5 - spread, 0.5 + spread, (3, count)).astype(np.float32)
        directions = unit_vectors(rng, count)
        density, color = ours.evaluate(positions, directions)
        expected_density, expected_color = exact.evaluate(positions, directions)
        np.testing.assert_allclose(density, expected_density, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(color, expected_color, atol=1e-3)
        np.testing.assert_array_equal(ours.densities(positions), density)
    assert (density > 0).any() and (np.ptp(color) > 0.1)


def test_a_position_without_bounds(native: NativeComponents, reference: Components) -> None:
    network = networks(np.random.default_rng(8))["nerf"]
    positions = np.random.default_rng(9).uniform(-4, 4, (3, 100)).astype(np.float32)
    domain = Domain(bounded=False)
    density = native.network(network, domain).densities(positions)
    expected = reference.network(network, domain).densities(positions)
    np.testing.assert_allclose(density, expected, rtol=1e-3, atol=1e-4)
    outside = ((positions < 0) | (positions > 1)).any(axis=0)
    assert (density[outside] > 0).any()
    assert (native.network(network).densities(positions)[outside] == 0).all()


def test_a_chosen_appearance(native: NativeComponents, reference: Components) -> None:
    network = replace(networks(np.random.default_rng(10))["nerfacto"], appearance=3)
    x = np.random.default_rng(11).random((3, 60)).astype(np.float32)
    color = native.network(network).evaluate(x, x)[1]
    np.testing.assert_allclose(color, reference.network(network).evaluate(x, x)[1], atol=1e-3)


def test_samples_of_rays_are_points(native: NativeComponents, reference: Components) -> None:
    rng = np.random.default_rng(12)
    network = instant_ngp(rng)
    origins = rng.uniform(0.2, 0.8, (3, 20)).astype(np.float32)
    directions = unit_vectors(rng, 20) * np.float32(0.7)
    views = unit_vectors(rng, 20)
    ray = np.sort(rng.integers(0, 20, 333)).astype(np.int32)
    samples = Samples(ray, rng.random(333).astype(np.float32), np.ones(333, np.float32))
    points = origins[:, ray] + samples.t * directions[:, ray]
    ours = native.network(network)
    density, color = ours.evaluate_along(origins, directions, views, samples)
    expected = ours.evaluate(points, np.ascontiguousarray(views[:, ray]))
    np.testing.assert_array_equal(density, expected[0])
    np.testing.assert_array_equal(color, expected[1])
    np.testing.assert_array_equal(ours.densities_along(origins, directions, samples), density)
    exact = reference.network(network).evaluate_along(origins, directions, views, samples)
    np.testing.assert_allclose(color, exact[1], atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_result_depends_on_its_sample_alone(native: NativeComponents, name: str) -> None:
    rng = np.random.default_rng(13)
    field = native.network(networks(rng)[name])
    positions = rng.random((3, 200)).astype(np.float32)
    density, color = field.evaluate(positions, positions)
    for order in (rng.permutation(200), np.arange(150), np.arange(0, 200, 7)):
        some = np.ascontiguousarray(positions[:, order])
        other_density, other_color = field.evaluate(some, some)
        np.testing.assert_array_equal(other_density, density[order])
        np.testing.assert_array_equal(other_color, color[:, order])


def test_any_number_of_threads(native: NativeComponents) -> None:
    rng = np.random.default_rng(14)
    network = instant_ngp(rng)
    positions = rng.random((3, 3000)).astype(np.float32)
    expected = native.network(network).evaluate(positions, positions)
    for threads in (1, 3, 64):
        found = NativeComponents(threads, native.instruction_set).network(network)
        for ours, theirs in zip(found.evaluate(positions, positions), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


HOSTILE = np.array(
    [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 0.0, 1.0, np.nextafter(1, 2), 1e9, -1e9],
    np.float32,
)


def hostile_positions() -> Float32Array:
    grid = np.stack(np.meshgrid(HOSTILE, HOSTILE, HOSTILE)).reshape(3, -1)
    return np.ascontiguousarray(grid)


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_stay_within_their_tables(native: NativeComponents, name: str) -> None:
    """Under the sanitizers a read beyond a table ends the test."""
    encoding = encodings(np.random.default_rng(15))[name]
    out = native.encode(encoding, hostile_positions())
    if isinstance(encoding, HashGridEncoding | PlaneEncoding):
        assert np.isfinite(out).all()
    if isinstance(encoding, FrequencyEncoding) and not encoding.includes_input:
        assert (np.abs(out) <= 1).all()


@pytest.mark.parametrize("contraction", Contraction)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_no_number_is_empty(
    native: NativeComponents, name: str, contraction: Contraction
) -> None:
    positions = hostile_positions()
    network = networks(np.random.default_rng(16))[name]
    density, color = native.network(network, Domain(contraction)).evaluate(positions, positions)
    assert np.isfinite(density).all() and (density >= 0).all()
    assert (density[np.isnan(positions).any(axis=0)] == 0).all()
    assert (color[:, density == 0] == 0).all()


def level(**changes: int | float | bool) -> GridLevel:
    values = {"scale": 3.0, "resolution": 4, "hashed": False, "entries": 64, "first": 0}
    return GridLevel(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        level(entries=65),
        level(first=1),
        level(first=-1),
        level(first=1 << 40),
        level(entries=0),
        level(entries=-64),
        level(entries=1 << 62, first=1 << 62),
        level(scale=1e30),
        level(scale=-1.0),
        level(scale=float("nan")),
        level(resolution=0),
        level(resolution=1 << 31),
    ],
)
def test_levels_beyond_their_table_are_refused(native: NativeComponents, bad: GridLevel) -> None:
    grid = HashGridEncoding((bad,), np.zeros((64, 2), np.float16))
    with pytest.raises(ValueError, match="level"):
        native.encode(grid, np.zeros((3, 1), np.float32))


def test_dense_levels_smaller_than_their_vertices_wrap(
    native: NativeComponents, reference: Components
) -> None:
    grid = HashGridEncoding(
        (level(entries=37, resolution=9, scale=8.0),),
        np.random.default_rng(17).normal(size=(64, 2)).astype(np.float32),
    )
    x = np.random.default_rng(18).random((3, 100)).astype(np.float32)
    np.testing.assert_allclose(native.encode(grid, x), reference.encode(grid, x), atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("short_of", [0.0, 1e-9, 0.3])
def test_far_corners_stay_within_their_table(short_of: float, shift: float) -> None:
    """Scales and shifts that float32 rounds up to whole numbers, of tables that are as small as
    subtracting their size once allows: behind each follow others of another level."""
    position = np.ones((3, 16), np.float32)
    for scale in (1 - short_of, 7 - short_of, 2047 - short_of):
        far = int(np.floor(np.float32(scale) + np.float32(shift))) + 1
        for resolution in (1, 7, 99):
            index = far * (1 + resolution + resolution**2)
            for entries in (index // 2, index // 2 + 1, index // 2 + 2, index - 1, index):
                table = np.full((3 * entries, 1), 42, np.float32)
                table[entries : 2 * entries] = 0
                levels = [(scale, resolution, False, entries, entries)]
                for name in INSTRUCTION_SETS:
                    out = np.full((1, 16), np.nan, np.float32)
                    grid = _neural.Encoding.hash_grid(levels, table, shift)
                    _neural.encode(grid, position, out, name, 1)
                    np.testing.assert_array_equal(out, 0)


def plane(shape: tuple[int, ...] = (2, 3, 4), axes: tuple[int, int, int] = (0, 1, 2)) -> object:
    return PlaneEncoding((np.zeros(shape, np.float32),), (None,), (axes,))


@pytest.mark.parametrize(
    "bad",
    [
        random_grid(np.random.default_rng(0), levels=33),
        HashGridEncoding((level(),), np.zeros((64, 65), np.float16)),
        HashGridEncoding((level(),), np.zeros((64, 2), np.float16), shift=-1.0),
        FrequencyEncoding((float("inf"),)),
        FrequencyEncoding(tuple(range(65))),
        SphericalHarmonicsEncoding(6),
        plane((0, 3, 4)),
        plane(axes=(0, 3, 1)),
        plane(axes=(0, -1, 1)),
        PlaneEncoding(
            (np.zeros((2, 3, 4), np.float32),),
            (np.zeros((3, 5), np.float32),),
            ((0, 1, 2),),
        ),
        PlaneEncoding(
            (np.zeros((2, 3, 4), np.float32),), (None,), ((0, 1, 2),), False, ((4, 3, 1, 0),)
        ),
    ],
)
def test_absurd_encodings_are_refused(native: NativeComponents, bad: Encoding) -> None:
    with pytest.raises(ValueError, match=r"."):
        native.encode(bad, np.zeros((3, 1), np.float32))


def test_kernels_check_what_they_are_given() -> None:
    def floats(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    mlp = _neural.Mlp(2, [(floats(3, 2), floats(3), 0, False)])
    refused: list[Callable[[], object]] = [
        lambda: _neural.Mlp(2, [(floats(3, 1), floats(3), 0, False)]),
        lambda: _neural.Mlp(2, [(floats(3, 2), floats(2), 0, False)]),
        lambda: _neural.Mlp(2, [(floats(3, 2), floats(3), 7, False)]),
        lambda: _neural.Mlp(2, [(floats(3, 2), floats(3), 0, True)]),
        lambda: _neural.Mlp(1 << 30, []),
        lambda: _neural.Mlp(2, [(floats(2000, 2), floats(2000), 0, False)]),
        lambda: _neural.Mlp(2, [(floats(2, 2), floats(2), 0, False)] * 33),
        lambda: _neural.mlp(mlp, floats(3, 5), floats(3, 5), "", 1),
        lambda: _neural.mlp(mlp, floats(2, 5), floats(3, 4), "", 1),
        lambda: _neural.mlp(mlp, floats(2, 5), floats(3, 5), "sse9", 1),
        lambda: _neural.mlp(mlp, floats(2, 5), floats(3, 5), "", -1),
        lambda: _neural.mlp(mlp, floats(2, 5), floats(3, 5), "", 100_000),
    ]
    for call in refused:
        with pytest.raises(ValueError, match=r"."):
            call()


def test_rays_that_are_not_there_are_refused(native: NativeComponents) -> None:
    field = native.network(instant_ngp(np.random.default_rng(19)))
    rays = np.zeros((3, 4), np.float32)
    for ray in (-1, 4):
        samples = Samples(np.array([ray], np.int32), *(np.zeros((2, 1), np.float32)))
        with pytest.raises(ValueError, match="ray"):
            field.densities_along(rays, rays, samples)


def test_parts_that_do_not_fit_are_refused() -> None:
    encoding = _neural.Encoding.identity(3)
    trunk = _neural.Mlp(4, [(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), 0, False)])
    with pytest.raises(ValueError, match="trunk"):
        _neural.Network(
            0,
            True,
            encoding,
            (trunk, None, None),
            (0, 0, 0.0),
            (0, 0),
            (None, None, [], []),
            (None, None, None),
        )
    with pytest.raises(ValueError, match="column"):
        _neural.Network(
            0,
            True,
            encoding,
            (None, None, None),
            (3, 0, 0.0),
            (0, 0),
            (None, None, [], []),
            (None, None, None),
        )


def test_tables_outlive_their_field() -> None:
    """Encodings keep the arrays that they read."""
    native = NativeComponents(1)

    def field_of(seed: int) -> tuple[Network, Float32Array]:
        network = instant_ngp(np.random.default_rng(seed))
        x = np.full((3, 1), 0.3, np.float32)
        return network, native.network(network).densities(x)

    network, expected = field_of(20)
    field = native.network(network)
    del network
    waste = [np.ones(1 << 16, np.float16) for _ in range(20)]
    np.testing.assert_array_equal(field.densities(np.full((3, 1), 0.3, np.float32)), expected)
    assert len(waste) == 20
