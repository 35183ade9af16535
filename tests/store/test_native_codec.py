"""Chunks as bytes: what comes back, what is lost, and what damage does."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scene_store.chunks import EncodedChunk
from scene_store.manifest import Profile
from scene_store.native import _store
from scene_store.page_codec import (
    DEFAULT_STEPS,
    CorruptChunkError,
    decode_chunk,
    decode_chunk_into,
    decode_chunks_into,
    encode_chunk,
)
from splat.gaussians import SH_COUNT_OF_DEGREE, Gaussians
from tests import scenes
from tests.store.format_decoder import decode_geometry, decode_harmonics

FIELDS = ("means", "quats", "scales", "opacities", "sh")
FAINTEST = 1 / 1024


def varied_gaussians(
    seed: int,
    count: int,
    sh_degree: int,
    *,
    decades: tuple[float, float] = (-3.0, 0.0),
    extent: float = 10.0,
    most_opacity: float = 8.0,
    sh_scale: float = 0.3,
) -> Gaussians:
    """Gaussians whose scales spread over ``decades`` (powers of ten), in a random walk."""
    random = np.random.default_rng(seed)
    quats = random.normal(size=(count, 4))
    means = np.cumsum(random.normal(size=(count, 3)), axis=0) / np.sqrt(count)
    sh = random.laplace(scale=sh_scale, size=(count, SH_COUNT_OF_DEGREE[sh_degree], 3))
    return Gaussians(
        (extent * means + random.normal(size=3) * extent).astype(np.float32),
        (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        (10 ** random.uniform(*decades, (count, 3))).astype(np.float32),
        (most_opacity * random.random(count) ** 2).astype(np.float32),
        sh.astype(np.float32),
    )


@st.composite
def chunks(draw: st.DrawFn) -> Gaussians:
    """Chunks of all sorts, those of enormous ranges included."""
    lowest = draw(st.sampled_from([-7.0, -3.0, -1.0]))
    return varied_gaussians(
        draw(st.integers(0, 1 << 30)),
        draw(st.sampled_from([1, 2, 63, 64, 65, 511, 512, 513, 1500])),
        draw(st.integers(0, 3)),
        decades=(lowest, draw(st.sampled_from([lowest, lowest + 1, 4.0]))),
        extent=draw(st.sampled_from([0.0, 1e-3, 10.0, 1e5])),
        most_opacity=draw(st.sampled_from([0.0, 1.0, 8.0])),
        sh_scale=draw(st.sampled_from([0.0, 0.3, 100.0])),
    )


def round_trip(gaussians: Gaussians, profile: Profile) -> Gaussians:
    return decode_chunk(encode_chunk(gaussians, profile), len(gaussians), gaussians.sh_degree)


def axes(gaussians: Gaussians) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, 3] scales, largest first, and [N, 3, 3] their axes as columns."""
    w, x, y, z = gaussians.quats.astype(np.float64).T
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    order = np.argsort(-gaussians.scales, axis=1, kind="stable")
    scales = np.take_along_axis(gaussians.scales.astype(np.float64), order, axis=1)
    return scales, np.take_along_axis(matrix, order[:, None], axis=2)


def mean_bound(gaussians: Gaussians) -> NDArray[np.float64]:
    """[3] the largest error that the format's text allows for each axis."""
    sizes = np.sort(gaussians.scales.max(axis=1).astype(np.float64))
    step = DEFAULT_STEPS.mean * sizes[int(0.1 * (len(sizes) - 1))]
    extent = np.ptp(gaussians.means.astype(np.float64), axis=0)
    rounding = np.spacing(np.abs(gaussians.means).max(axis=0))
    bound: NDArray[np.float64] = np.maximum(step, extent / ((1 << 24) - 1)) / 2 + rounding
    return bound


@given(chunks())
def test_lossless_returns_every_bit(gaussians: Gaussians) -> None:
    decoded = round_trip(gaussians, Profile.LOSSLESS)
    for name in FIELDS:
        assert getattr(decoded, name).tobytes() == getattr(gaussians, name).tobytes()


@given(chunks())
def test_compact_means_stay_within_half_a_step_and_within_their_box(gaussians: Gaussians) -> None:
    decoded = round_trip(gaussians, Profile.COMPACT)
    error = np.abs(decoded.means.astype(np.float64) - gaussians.means)
    assert (error <= mean_bound(gaussians)).all()
    assert (decoded.means.min(axis=0) == gaussians.means.min(axis=0)).all()
    assert (decoded.means.max(axis=0) == gaussians.means.max(axis=0)).all()


@given(chunks())
def test_compact_scales_and_rotations_describe_the_same_shape(gaussians: Gaussians) -> None:
    decoded = round_trip(gaussians, Profile.COMPACT)
    scales, vectors = axes(gaussians)
    decoded_scales, decoded_vectors = axes(decoded)
    assert np.abs(np.log(decoded_scales / scales)).max() <= DEFAULT_STEPS.log_scale / 2 + 1e-6
    assert decoded.scales.max() == gaussians.scales.max()
    assert np.abs(np.linalg.norm(decoded.quats, axis=1) - 1).max() < 1e-6
    assert (decoded.quats[:, 0] > 0).all()
    # Where quantization made two scales equal, their axes may have changed places.
    ratios = scales[:, :-1] / scales[:, 1:]
    distinct = (ratios > 1 + 2 * DEFAULT_STEPS.log_scale).all(axis=1)
    turned = np.abs(np.einsum("nij,nij->nj", vectors, decoded_vectors))[distinct]
    assert np.degrees(np.arccos(np.minimum(turned, 1))).max(initial=0) <= 0.6


@given(chunks())
def test_compact_opacities_and_colours_stay_within_half_a_step(gaussians: Gaussians) -> None:
    decoded = round_trip(gaussians, Profile.COMPACT)
    opacities = np.maximum(gaussians.opacities.astype(np.float64), FAINTEST)
    error = np.abs(np.log(decoded.opacities / opacities))
    assert error.max() <= DEFAULT_STEPS.log_opacity / 2 + 1e-6
    assert decoded.opacities.max() == np.float32(opacities.max())
    for step, most, part in (
        (DEFAULT_STEPS.color, 1 << 20, slice(0, 1)),
        (DEFAULT_STEPS.sh, (1 << 15) - 2, slice(1, None)),
    ):
        before, after = gaussians.sh[:, part].astype(np.float64), decoded.sh[:, part]
        largest = np.float32(np.abs(before).max(initial=0))
        bound = max(step, largest / most) / 2 + 2 * np.spacing(largest)
        assert np.abs(after - before).max(initial=0) <= bound


@given(chunks(), st.sampled_from(list(Profile)))
def test_the_reader_written_from_the_specification_agrees_bit_for_bit(
    gaussians: Gaussians, profile: Profile
) -> None:
    encoded = encode_chunk(gaussians, profile)
    decoded = decode_chunk(encoded, len(gaussians), gaussians.sh_degree)
    expected = decode_geometry(bytes(encoded.parts[0]))
    if gaussians.sh_degree:
        expected["sh"] = np.concatenate(
            [expected["sh"], decode_harmonics(bytes(encoded.parts[1]))], axis=1
        )
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(decoded, name), expected[name], name)


def test_scales_of_all_sizes_survive_in_one_chunk() -> None:
    gaussians = varied_gaussians(1, 5000, 0, decades=(-7.0, 4.0))
    decoded = round_trip(gaussians, Profile.COMPACT)
    before, after = np.sort(gaussians.scales, axis=1), np.sort(decoded.scales, axis=1)
    np.testing.assert_allclose(after, before, rtol=0.0158)


def test_axes_are_renamed_without_changing_the_covariance() -> None:
    turns = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, 0.5, 0.5, 0.5]])
    for scales in ([3, 2, 1], [1, 2, 3], [2, 3, 1], [1, 3, 2], [2, 1, 3], [3, 1, 2]):
        gaussians = scenes.gaussians(np.zeros((4, 3)), quats=turns, scales=scales)
        decoded = round_trip(gaussians, Profile.COMPACT)
        np.testing.assert_array_equal(decoded.scales, np.tile([3.0, 2.0, 1.0], (4, 1)))
        (_, vectors), (_, decoded_vectors) = axes(gaussians), axes(decoded)
        np.testing.assert_allclose(np.abs(decoded_vectors), np.abs(vectors), atol=0.006)


def test_encoding_is_deterministic_and_compact() -> None:
    gaussians = varied_gaussians(2, 4096, 3, decades=(-2.0, -1.0), sh_scale=0.05)
    encoded = encode_chunk(gaussians, Profile.COMPACT)
    assert encode_chunk(gaussians, Profile.COMPACT) == encoded
    geometry, harmonics = (len(part) / len(gaussians) for part in encoded.parts)
    assert geometry < 16
    assert harmonics < 30


def test_decoding_fills_parts_of_larger_arrays() -> None:
    gaussians = varied_gaussians(3, 100, 2)
    encoded = encode_chunk(gaussians, Profile.COMPACT)
    pool = Gaussians.concatenate([varied_gaussians(seed, 100, 2) for seed in (4, 5, 6)])
    untouched = pool[200:]
    decode_chunk_into(encoded, pool[100:200])
    decoded = decode_chunk(encoded, 100, 2)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(pool, name)[100:200], getattr(decoded, name))
        np.testing.assert_array_equal(getattr(pool, name)[200:], getattr(untouched, name))


def test_without_its_harmonics_a_chunk_has_none() -> None:
    gaussians = varied_gaussians(7, 50, 3)
    encoded = encode_chunk(gaussians, Profile.COMPACT)
    base_only = EncodedChunk((encoded.parts[0], b""))
    full = decode_chunk(encoded, 50, 3)
    for degree in (0, 3):
        decoded = decode_chunk(base_only, 50, degree)
        np.testing.assert_array_equal(decoded.sh[:, :1], full.sh[:, :1])
        assert not decoded.sh[:, 1:].any()


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("sh_degree", [0, 2])
def test_a_batch_is_its_chunks_one_after_the_other(profile: Profile, sh_degree: int) -> None:
    counts = [1, 700, 16, 513, 64]
    scenes_of = [varied_gaussians(seed, count, sh_degree) for seed, count in enumerate(counts)]
    encoded = [encode_chunk(each, profile) for each in scenes_of]
    out = Gaussians.allocate(sum(counts) + 10, sh_degree)
    assert decode_chunks_into(encoded, counts, out) == [None] * len(counts)
    start = 0
    for each, count in zip(encoded, counts, strict=True):
        alone = decode_chunk(each, count, sh_degree)
        for name in FIELDS:
            rows = getattr(out, name)[start : start + count]
            assert rows.tobytes() == getattr(alone, name).tobytes()
        start += count


def test_a_bad_chunk_of_a_batch_does_not_touch_its_neighbours() -> None:
    """Bad in each of the places where that is noticed, among chunks that are well."""
    gaussians = varied_gaussians(3, 300, 1)
    good = encode_chunk(gaussians, Profile.COMPACT)
    geometry, harmonics = (bytes(part) for part in good.parts)
    scrambled = bytearray(harmonics)
    scrambled[-len(harmonics) // 2 :] = b"\x5a" * (len(harmonics) // 2)
    steps = bytearray(geometry)
    steps[8 + 8 : 8 + 12] = (1).to_bytes(4, "little")  # of x: nearly every value is beyond it
    bad = {
        1: (geometry[:50], harmonics),
        2: (geometry + b"\0", harmonics),
        4: (bytes(steps), harmonics),
        5: (geometry, bytes(scrambled)),
    }
    encoded = [EncodedChunk(bad.get(i, (geometry, harmonics))) for i in range(7)]
    out = Gaussians.allocate(7 * 300, 1)
    problems = decode_chunks_into(encoded, [300] * 7, out)
    assert [i for i, problem in enumerate(problems) if problem] == sorted(bad)
    assert problems[2] == "the planes of its geometry have the wrong size"
    assert problems[4] == "its geometry is damaged: a value is out of range"
    expected = decode_chunk(good, 300, 1)
    for i in sorted({*range(7)} - set(bad)):
        for name in FIELDS:
            rows = getattr(out, name)[300 * i : 300 * (i + 1)]
            assert rows.tobytes() == getattr(expected, name).tobytes()


def test_harmonics_that_a_chunk_of_a_batch_lacks_are_zero() -> None:
    geometry, harmonics = encode_chunk(varied_gaussians(5, 40, 2), Profile.COMPACT).parts
    out = Gaussians.allocate(80, 2)
    out.sh[:] = np.nan
    encoded = [EncodedChunk((geometry, b"")), EncodedChunk((geometry, harmonics))]
    assert decode_chunks_into(encoded, [40, 40], out) == [None, None]
    assert not out.sh[:40, 1:].any()
    assert out.sh[40:, 1:].any()
    assert np.isfinite(out.sh).all()


def test_checksums_are_those_of_zlib() -> None:
    random = np.random.default_rng(1)
    streams = [random.bytes(size) for size in (0, 1, 15, 16, 17, 33, 12_345)]
    out = np.empty(len(streams), np.uint32)
    _store.checksums(streams, out)
    assert out.tolist() == [zlib.crc32(each) for each in streams]


@pytest.mark.parametrize("field", FIELDS)
def test_values_that_are_not_finite_are_refused(field: str) -> None:
    gaussians = varied_gaussians(8, 20, 1)
    array = getattr(gaussians, field).copy()
    array.flat[5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        encode_chunk(dataclasses.replace(gaussians, **{field: array}), Profile.COMPACT)


def test_scales_must_be_positive_and_chunks_not_empty() -> None:
    gaussians = varied_gaussians(9, 20, 0)
    scales = gaussians.scales.copy()
    scales[3, 1] = 0
    with pytest.raises(ValueError, match="scale"):
        encode_chunk(dataclasses.replace(gaussians, scales=scales), Profile.LOSSLESS)
    with pytest.raises(ValueError, match="0 Gaussians"):
        encode_chunk(Gaussians.empty(), Profile.COMPACT)


@pytest.mark.parametrize("profile", list(Profile))
def test_another_count_or_degree_is_refused(profile: Profile) -> None:
    encoded = encode_chunk(varied_gaussians(10, 20, 2), profile)
    for count, degree in ((19, 2), (20, 1), (20, 3)):
        with pytest.raises(CorruptChunkError, match="holds 20 Gaussians"):
            decode_chunk(encoded, count, degree)


@given(st.data())
def test_damage_is_an_error_or_still_finite(data: st.DataObject) -> None:
    """Without the checksum's protection: the decoder itself must stand any bytes."""
    gaussians = varied_gaussians(data.draw(st.integers(0, 9)), 40, 1)
    profile = data.draw(st.sampled_from(list(Profile)))
    parts = [bytearray(part) for part in encode_chunk(gaussians, profile).parts]
    part = data.draw(st.sampled_from(parts))
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of what can be misunderstood is in front of the compressed planes.
        at = data.draw(st.integers(0, min(200, len(part) - 1)))
        part[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del part[data.draw(st.integers(0, len(part))) :]
    try:
        decoded = decode_chunk(EncodedChunk((bytes(parts[0]), bytes(parts[1]))), 40, 1)
    except CorruptChunkError:
        return
    assert all(np.isfinite(getattr(decoded, name)).all() for name in FIELDS)
    assert (decoded.scales > 0).all()


@pytest.mark.parametrize("size", [0, 7, 8, 50, 112, 125])
@pytest.mark.parametrize("profile", list(Profile))
def test_streams_that_are_cut_short_are_refused(profile: Profile, size: int) -> None:
    geometry, harmonics = encode_chunk(varied_gaussians(11, 30, 1), profile).parts
    with pytest.raises(CorruptChunkError):
        decode_chunk(EncodedChunk((geometry[:size], harmonics)), 30, 1)
    if size:
        with pytest.raises(CorruptChunkError):
            decode_chunk(EncodedChunk((geometry, harmonics[:size])), 30, 1)
