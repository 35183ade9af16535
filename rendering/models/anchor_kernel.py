"""Anchors decoded on a GPU, in Triton: from pages of anchors to pages that the fused engine draws.

The equations are those of ``splat.anchors``, in the order of the native decoder
(``rendering/models/native/src/decode.h``). A program takes a block of anchors of a page through all
networks: hidden layers and outputs are matrix products over the block, an output a matrix for each
value that a Gaussian has, so that nothing is picked out of a product afterwards.

Gaussians of a page lie by number and then by anchor, so that neighbouring lanes write neighbouring
words; those too faint to be drawn keep their place, with no opacity at all, which engines skip.
"""

import triton
import triton.language as tl

from rendering.fused_kernels.layout import (
    DC,
    HEADER,
    LOG2_OPACITY,
    MEAN,
    QUAT,
    SCALE,
)

# Columns of a page of anchors (``splat.anchors.AnchorLayout``).
LOG_REACH = tl.constexpr(3)
LOG_SIZE = tl.constexpr(6)
OFFSETS_AT = tl.constexpr(9)

# What networks see beside the features: the direction, the distance, the level.
SEEN = tl.constexpr(5)
INVERSE_C0 = tl.constexpr(3.5449077018110318)
LOG2_E = tl.constexpr(1.4426950408889634)
LEAST_LENGTH = tl.constexpr(1e-12)
LEAST_DISTANCE = tl.constexpr(1e-30)
MOST_DISTANCE = tl.constexpr(1e30)
MAGIC = tl.constexpr(12582912.0)  # adding it rounds to an integer

NO_LEVELS = tl.constexpr(0)
FLOOR = tl.constexpr(1)
ROUND = tl.constexpr(2)
CEIL = tl.constexpr(3)
PROGRESSIVE = tl.constexpr(4)


@triton.jit
def exponential(x):
    return tl.exp2(x * LOG2_E)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + exponential(-x))


@triton.jit
def tanh(x):
    """Without cancellation near 0."""
    e = exponential(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    x2 = x * x
    near = x * (1.0 - x2 * (1.0 / 3.0 - x2 * (2.0 / 15.0)))
    return tl.where(tl.abs(x) < 0.05, near, tl.where(x < 0, -far, far))


@triton.jit
def hidden_layer(
    weights, feature, dx, dy, dz, distance, level, INPUTS: tl.constexpr, WIDTH: tl.constexpr
):
    """ReLU of a network's first layer, over a block; ``weights`` are [INPUTS + SEEN + 1, WIDTH]:
    of features, of what else is seen, biases."""
    row = tl.arange(0, INPUTS)
    column = tl.arange(0, WIDTH)
    matrix = tl.load(weights + row[:, None] * WIDTH + column[None, :])
    seen = weights + INPUTS * WIDTH + column
    sums = tl.dot(feature, matrix, input_precision="ieee")
    sums += dx[:, None] * tl.load(seen)[None, :]
    sums += dy[:, None] * tl.load(seen + WIDTH)[None, :]
    sums += dz[:, None] * tl.load(seen + 2 * WIDTH)[None, :]
    sums += distance[:, None] * tl.load(seen + 3 * WIDTH)[None, :]
    sums += level[:, None] * tl.load(seen + 4 * WIDTH)[None, :]
    sums += tl.load(seen + 5 * WIDTH)[None, :]
    return tl.maximum(sums, 0.0)


@triton.jit
def output(weights, hidden, value, VALUES: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr):
    """One value of each Gaussian, [anchors, PLACES]: ``weights`` are [VALUES, WIDTH, PLACES], then
    [VALUES, PLACES] of biases."""
    row = tl.arange(0, WIDTH)
    column = tl.arange(0, PLACES)
    at = weights + value * WIDTH * PLACES
    matrix = tl.load(at + row[:, None] * PLACES + column[None, :])
    bias = tl.load(weights + VALUES * WIDTH * PLACES + value * PLACES + column)
    return tl.dot(hidden, matrix, input_precision="ieee") + bias[None, :]


@triton.jit
def level_share(octree, rx, ry, rz, level, extra, RULE: tl.constexpr):
    """What opacities count: 0 of levels that are not due. ``octree`` is: standard distance,
    resolution, inverse of log2 of the fork, log2 of it, half a voxel, levels."""
    half = tl.load(octree + 4) * tl.exp2(-level * tl.load(octree + 3))
    rx += half
    ry += half
    rz += half
    distance = tl.sqrt(rx * rx + ry * ry + rz * rz) * tl.load(octree + 1)
    ratio = tl.load(octree) / tl.maximum(distance, LEAST_DISTANCE)
    due = tl.log2(tl.minimum(tl.maximum(ratio, LEAST_DISTANCE), MOST_DISTANCE))
    due = due * tl.load(octree + 2) + extra
    due = tl.minimum(tl.maximum(due, -1e4), 1e4)
    levels = tl.load(octree + 5)
    if RULE == PROGRESSIVE:
        due = tl.minimum(tl.maximum(due + 1.0, 0.9999), levels - 0.0001)
        whole = tl.floor(due)
        share = tl.where(level == whole, due - whole, tl.where(level < whole, 1.0, 0.0))
    else:
        if RULE == FLOOR:
            due = tl.floor(due)
        elif RULE == ROUND:
            due = (due + MAGIC) - MAGIC
        else:
            due = -tl.floor(-due)
        due = tl.minimum(tl.maximum(due, 0.0), levels - 1.0)
        share = tl.where(level <= due, 1.0, 0.0)
    return share


@triton.jit
def blended(
    column_of,
    weights,
    feature,
    dx,
    dy,
    dz,
    more,
    mask,
    room,
    FEATURES: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The feature bank: a feature in three resolutions, by weights that follow from the view.
    ``weights`` are [4, WIDTH] and biases [WIDTH], then [3, WIDTH] and biases [3]."""
    unit = tl.arange(0, WIDTH)
    sums = dx[:, None] * tl.load(weights + unit)[None, :]
    sums += dy[:, None] * tl.load(weights + WIDTH + unit)[None, :]
    sums += dz[:, None] * tl.load(weights + 2 * WIDTH + unit)[None, :]
    sums += more[:, None] * tl.load(weights + 3 * WIDTH + unit)[None, :]
    hidden = tl.maximum(sums + tl.load(weights + 4 * WIDTH + unit)[None, :], 0.0)
    last = weights + 5 * WIDTH
    first = tl.sum(hidden * tl.load(last + unit)[None, :], 1) + tl.load(last + 3 * WIDTH)
    second = tl.sum(hidden * tl.load(last + WIDTH + unit)[None, :], 1)
    second += tl.load(last + 3 * WIDTH + 1)
    third = tl.sum(hidden * tl.load(last + 2 * WIDTH + unit)[None, :], 1)
    third += tl.load(last + 3 * WIDTH + 2)
    most = tl.maximum(tl.maximum(first, second), third)
    first = exponential(first - most)
    second = exponential(second - most)
    third = exponential(third - most)
    total = first + second + third
    number = tl.arange(0, INPUTS)
    coarse = (number % (FEATURES // 4)) * 4
    middle = (number % (FEATURES // 2)) * 2
    there = mask[:, None] & (number < FEATURES)[None, :]
    sums = feature * (third / total)[:, None]
    sums += tl.load(column_of + coarse[None, :] * room, there, 0.0) * (first / total)[:, None]
    sums += tl.load(column_of + middle[None, :] * room, there, 0.0) * (second / total)[:, None]
    return sums


@triton.jit
def decode_kernel(
    sources,  # [n] int64: addresses of pages of anchors
    targets,  # [n] int64: of pages of Gaussians
    sizes,  # [n, 3] int32: anchors, room of their page, room of the page of Gaussians
    bounds,  # [n, 7] of pages of Gaussians: their header
    centre,  # [6]: where they are seen from, its first digits and the rest
    octree,  # [6]
    weights,  # of all networks: opacity, colour, covariance, bank
    least,  # opacity of what is drawn
    OFFSETS: tl.constexpr,  # Gaussians of an anchor
    PLACES: tl.constexpr,  # a power of 2, at least as many
    FEATURES: tl.constexpr,
    INPUTS: tl.constexpr,  # likewise
    OPACITY_WIDTH: tl.constexpr,
    COLOR_WIDTH: tl.constexpr,
    COVARIANCE_WIDTH: tl.constexpr,
    BANK_WIDTH: tl.constexpr,  # 0 without a bank
    BANK_LEVEL: tl.constexpr,  # whether it sees the level instead of the distance
    BANK_MORE: tl.constexpr,  # or nothing but the direction
    HAS_LEVELS: tl.constexpr,
    RULE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Programs (page, block) decode a block of a page's anchors."""
    page = tl.program_id(0)
    count = tl.load(sizes + 3 * page)
    room = tl.load(sizes + 3 * page + 1)
    target_room = tl.load(sizes + 3 * page + 2)
    target = tl.load(targets + page).to(tl.pointer_type(tl.float32))
    lane = tl.arange(0, 16)
    if tl.program_id(1) == 0:
        header = tl.load(bounds + 7 * page + lane, lane < 7, 0.0)
        tl.store(target + lane, header)
    anchor = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = anchor < count
    column = tl.load(sources + page).to(tl.pointer_type(tl.float32)) + anchor

    x = tl.load(column, mask, 0.0)
    y = tl.load(column + room, mask, 0.0)
    z = tl.load(column + 2 * room, mask, 0.0)
    rx = (x - tl.load(centre)) - tl.load(centre + 3)
    ry = (y - tl.load(centre + 1)) - tl.load(centre + 4)
    rz = (z - tl.load(centre + 2)) - tl.load(centre + 5)
    distance = tl.sqrt(rx * rx + ry * ry + rz * rz)
    scale = 1.0 / tl.maximum(distance, LEAST_DISTANCE)
    dx = rx * scale
    dy = ry * scale
    dz = rz * scale
    features_at = OFFSETS_AT + 3 * OFFSETS
    level = distance * 0.0
    if HAS_LEVELS:
        level = tl.load(column + (features_at + FEATURES) * room, mask, 0.0)

    number = tl.arange(0, INPUTS)
    column_of = column[:, None] + features_at * room
    there = mask[:, None] & (number < FEATURES)[None, :]
    feature = tl.load(column_of + number[None, :] * room, there, 0.0)
    opacity_at = weights
    color_at = opacity_at + (INPUTS + SEEN + 1) * OPACITY_WIDTH + (OPACITY_WIDTH + 1) * PLACES
    covariance_at = color_at + (INPUTS + SEEN + 1) * COLOR_WIDTH + 3 * (COLOR_WIDTH + 1) * PLACES
    if BANK_WIDTH > 0:
        bank_at = covariance_at + (INPUTS + SEEN + 1) * COVARIANCE_WIDTH
        bank_at += 7 * (COVARIANCE_WIDTH + 1) * PLACES
        more = distance
        if BANK_LEVEL:
            more = level
        if BANK_MORE:
            more = distance * 0.0
        feature = blended(
            column_of, bank_at, feature, dx, dy, dz, more, mask, room, FEATURES, INPUTS, BANK_WIDTH
        )

    place = tl.arange(0, PLACES)
    kept = mask[:, None] & (place < OFFSETS)[None, :]
    out = target + HEADER + anchor[:, None] + place[None, :] * count
    hidden = hidden_layer(opacity_at, feature, dx, dy, dz, distance, level, INPUTS, OPACITY_WIDTH)
    values = opacity_at + (INPUTS + SEEN + 1) * OPACITY_WIDTH
    opacity = tanh(output(values, hidden, 0, 1, OPACITY_WIDTH, PLACES))
    if RULE != NO_LEVELS:
        extra = tl.load(column + (features_at + FEATURES + 1) * room, mask, 0.0)
        opacity *= level_share(octree, rx, ry, rz, level, extra, RULE)[:, None]
    drawn = opacity > least
    log2_opacity = tl.where(drawn, tl.log2(tl.where(drawn, opacity, 1.0)), float("-inf"))
    tl.store(out + LOG2_OPACITY * target_room, log2_opacity, kept)

    hidden = hidden_layer(color_at, feature, dx, dy, dz, distance, level, INPUTS, COLOR_WIDTH)
    values = color_at + (INPUTS + SEEN + 1) * COLOR_WIDTH
    for channel in tl.static_range(3):
        color = sigmoid(output(values, hidden, channel, 3, COLOR_WIDTH, PLACES))
        tl.store(out + (DC + channel) * target_room, (color - 0.5) * INVERSE_C0, kept)

    hidden = hidden_layer(
        covariance_at, feature, dx, dy, dz, distance, level, INPUTS, COVARIANCE_WIDTH
    )
    values = covariance_at + (INPUTS + SEEN + 1) * COVARIANCE_WIDTH
    for axis in tl.static_range(3):
        size = exponential(tl.load(column + (LOG_SIZE + axis) * room, mask, 0.0))
        share = sigmoid(output(values, hidden, axis, 7, COVARIANCE_WIDTH, PLACES))
        tl.store(out + (SCALE + axis) * target_room, size[:, None] * share, kept)
        reach = exponential(tl.load(column + (LOG_REACH + axis) * room, mask, 0.0))
        mean = tl.load(column + axis * room, mask, 0.0)
        offsets = column[:, None] + (place * 3 + axis + OFFSETS_AT)[None, :] * room
        offset = tl.load(offsets, kept, 0.0)
        tl.store(out + (MEAN + axis) * target_room, mean[:, None] + offset * reach[:, None], kept)
    qw = output(values, hidden, 3, 7, COVARIANCE_WIDTH, PLACES)
    qx = output(values, hidden, 4, 7, COVARIANCE_WIDTH, PLACES)
    qy = output(values, hidden, 5, 7, COVARIANCE_WIDTH, PLACES)
    qz = output(values, hidden, 6, 7, COVARIANCE_WIDTH, PLACES)
    length = tl.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
    turned = length > LEAST_LENGTH
    inverse = 1.0 / tl.maximum(length, LEAST_LENGTH)
    tl.store(out + QUAT * target_room, tl.where(turned, qw * inverse, 1.0), kept)
    tl.store(out + (QUAT + 1) * target_room, tl.where(turned, qx * inverse, 0.0), kept)
    tl.store(out + (QUAT + 2) * target_room, tl.where(turned, qy * inverse, 0.0), kept)
    tl.store(out + (QUAT + 3) * target_room, tl.where(turned, qz * inverse, 0.0), kept)
