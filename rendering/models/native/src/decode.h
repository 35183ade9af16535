// Neural anchors to Gaussians, a block of anchors at a time: rows are transposed to a value a row,
// the networks run over the block, and what is opaque enough is written out as arrays of structures.
// Nothing in between leaves the cache. Lanes are anchors, and all of a block are computed whether
// they are wanted or not, so an anchor's Gaussians depend on nothing but the anchor.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "decode_types.h"
#include "mlp.h"

namespace belvedere::BELVEDERE_ISA {

using neural::AnchorNetworks;
using neural::AnchorSpheres;
using neural::AnchorView;
using neural::ChosenAnchors;
using neural::FrustumSide;
using neural::FrustumView;
using neural::GaussianTarget;
using neural::LevelRule;
using neural::OctreeView;

constexpr int kGaussianValues = 16;  // mean, opacity, quat, scale, colour; two are padding
constexpr float kInverseC0 = 3.5449077018110318f;  // of the first spherical harmonic
constexpr float kLeastLength = 1e-12f;
constexpr float kRayRounding = 2e-6f;  // of the sums that tell where a sphere is, relative

// p − c with as many digits as p has, however far both are from the origin.
BELVEDERE_INLINE VF minus(VF p, double c) {
  VD wide = __builtin_convertvector(p, VD);
  wide -= c;
  return __builtin_convertvector(wide, VF);
}

// What the opacities of anchors at `mean` count, seen from `center`: 0 of levels that are not due.
BELVEDERE_INLINE VF level_share(const OctreeView& octree, const VF (&mean)[3], VF half, VF level,
                                VF extra, const double (&center)[3]) {
  VF square{};
  for (int k = 0; k < 3; ++k) {
    const VF ray = minus(mean[k], center[k]) + half;
    square = fma(ray, ray, square);
  }
  const VF least = splat(1e-30f), most = splat(1e30f);
  const VF distance = max(sqrt(square) * octree.res_scale, least);
  VF due = log2(clamp(octree.standard_dist / distance, least, most));
  due = clamp(fma(due, splat(octree.per_log2), extra), splat(-1e4f), splat(1e4f));
  const VF one = splat(1.0f), magic = splat(12582912.0f);  // adding it rounds to an integer
  switch (octree.rule) {
    case LevelRule::kFloor:
      due = floor(due);
      break;
    case LevelRule::kRound:
      due = (due + magic) - magic;
      break;
    case LevelRule::kCeil:
      due = -floor(-due);
      break;
    case LevelRule::kProgressive: {
      due = clamp(due + 1.0f, splat(0.9999f), splat(octree.levels - 0.0001f));
      const VF whole = floor(due);
      const VF older = keep(greater(whole, level), one);
      const Mask is_next = both(greater_equal(whole, level), greater_equal(level, whole));
      return select(is_next, due - whole, older);
    }
  }
  due = clamp(due, VF{}, splat(octree.levels - 1.0f));
  return keep(greater_equal(due, level), one);
}

// Leaves out the anchors of `in` whose level is not due; returns how many are left.
inline std::size_t choose_levels(const AnchorNetworks& networks, const AnchorView& view,
                                 const ChosenAnchors& in, std::int32_t* index, float* share) {
  const OctreeView& octree = networks.octree;
  std::size_t left = 0;
  for (std::size_t first = 0; first < in.count; first += kLanes) {
    const int lanes = static_cast<int>(in.count - first < kLanes ? in.count - first : kLanes);
    VF mean[3], half, level, extra;
    for (int i = 0; i < kLanes; ++i) {
      const std::int32_t which = in.index[first + (i < lanes ? i : lanes - 1)];
      const float* row = in.rows + static_cast<std::ptrdiff_t>(which) * networks.width;
      for (int k = 0; k < 3; ++k) mean[k][i] = row[k];
      level[i] = row[networks.width - 2], extra[i] = row[networks.width - 1];
      const float within = level[i] > 0 ? level[i] : 0;  // also of what is not a number
      const int at = within < octree.levels - 1 ? static_cast<int>(within) : octree.levels - 1;
      half[i] = octree.half_voxel[at];
    }
    const VF due = level_share(octree, mean, half, level, extra, view.center);
    for (int i = 0; i < lanes; ++i) {
      index[left] = in.index[first + i], share[left] = due[i];
      left += due[i] > 0;
    }
  }
  return left;
}

// Bits of the spheres that a view may see; of what is no number, too.
BELVEDERE_INLINE std::uint32_t in_view(const FrustumView& view, const VF (&mean)[3], VF radius,
                                       VF largest) {
  VF ray[3], slack = splat(view.slack);
  for (int k = 0; k < 3; ++k) {
    ray[k] = mean[k] - view.position[k];
    slack = fma(abs(ray[k]), splat(kRayRounding), slack);
  }
  std::uint32_t outside = 0;
  for (const FrustumSide& side : view.sides) {
    VF along = ray[0] * side.normal[0];
    along = fma(ray[1], splat(side.normal[1]), along);
    along = fma(ray[2], splat(side.normal[2]), along);
    const VF nearest = fma(radius, splat(-side.length), along);
    const VF limit = fma(largest, splat(side.reach), slack + side.offset);
    outside |= bits(greater(nearest, limit));
  }
  return ~outside;
}

// See types.h, Kernels::choose_visible.
inline std::size_t choose_visible(const AnchorSpheres& spheres, const FrustumView* views,
                                  int view_count, std::int32_t* index) {
  const std::size_t count = spheres.count;
  std::size_t seen = 0;
  for (std::size_t first = 0; first < count; first += kLanes) {
    const std::size_t lanes = count - first < kLanes ? count - first : kLanes;
    VF values[5]{};
    for (int k = 0; k < 5; ++k) {
      const float* const row = spheres.rows + k * count + first;
      if (lanes == kLanes) {
        values[k] = load(row);
      } else {
        std::memcpy(&values[k], row, sizeof(float) * lanes);
      }
    }
    std::uint32_t drawn = 0;
    for (int v = 0; v < view_count; ++v) {
      drawn |= in_view(views[v], {values[0], values[1], values[2]}, values[3], values[4]);
    }
    drawn &= static_cast<std::uint32_t>((std::uint64_t{1} << lanes) - 1);
    for (; drawn; drawn &= drawn - 1) {
      index[seen++] = static_cast<std::int32_t>(first) + __builtin_ctz(drawn);
    }
  }
  return seen;
}

// Memory of a block, each [rows][kBlock].
struct AnchorBlock {
  float* row;         // the anchors, `width` rows
  float* input;       // of the networks
  float* distance;
  float* bank;        // its input, 4 rows, and its weights, 3
  float* opacity;     // `offsets` rows
  float* color;       // three times as many
  float* covariance;  // seven times
  float* scratch;     // of the networks

  AnchorBlock(const AnchorNetworks& networks, float* memory) {
    const auto take = [&memory](int rows) {
      float* const taken = memory;
      memory += rows * kBlock;
      return taken;
    };
    row = take(networks.width), input = take(networks.features + 5), distance = take(1);
    bank = take(7), opacity = take(networks.offsets), color = take(3 * networks.offsets);
    covariance = take(7 * networks.offsets), scratch = memory;
  }
};

// Anchors [first, first + kBlock) of those chosen, transposed; what is missing repeats the last.
inline void gather_rows(const AnchorNetworks& networks, const ChosenAnchors& in, std::size_t first,
                        float* out) {
  const int width = networks.width;
  for (int s = 0; s < kBlock; s += kLanes) {
    const float* row[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const std::size_t at = first + s + i < in.count ? first + s + i : in.count - 1;
      row[i] = in.rows + static_cast<std::ptrdiff_t>(in.index[at]) * width;
    }
    // The last square may overlap the one before it; a row has more values than a vector.
    for (int c = 0; c < width; c += kLanes) {
      const int from = c + kLanes <= width ? c : width - kLanes;
      VF lines[kLanes], columns[kLanes];
      for (int i = 0; i < kLanes; ++i) lines[i] = load(row[i] + from);
      transpose(lines, columns);
      for (int i = 0; i < kLanes; ++i) store(out + (from + i) * kBlock + s, columns[i]);
    }
  }
}

// Directions, distances, and features, through the bank if there is one.
inline void view_block(const AnchorNetworks& networks, const AnchorView& view,
                       const AnchorBlock& block) {
  const int features = networks.features;
  float* const direction = block.input + features * kBlock;
  for (int s = 0; s < kBlock; s += kLanes) {
    VF ray[3], square{};
    for (int k = 0; k < 3; ++k) {
      ray[k] = minus(load(block.row + k * kBlock + s), view.center[k]);
      square = fma(ray[k], ray[k], square);
    }
    const VF distance = sqrt(square);
    const VF scale = 1.0f / max(distance, splat(1e-30f));
    for (int k = 0; k < 3; ++k) store(direction + k * kBlock + s, ray[k] * scale);
    store(block.distance + s, distance);
  }
  const float* const feature = block.row + (9 + 3 * networks.offsets) * kBlock;
  if (!networks.has_bank) {
    std::memcpy(block.input, feature, sizeof(float) * kBlock * features);
    return;
  }
  const float* const level = feature + features * kBlock;
  std::memcpy(block.bank, direction, sizeof(float) * kBlock * 3);
  if (networks.bank_distance || networks.bank_level) {
    std::memcpy(block.bank + 3 * kBlock, networks.bank_level ? level : block.distance,
                sizeof(float) * kBlock);
  }
  float* const weights = block.bank + 4 * kBlock;
  mlp_block(networks.bank, block.bank, weights, block.scratch);
  for (int f = 0; f < features; ++f) {
    const float* const coarse = feature + f % (features / 4) * 4 * kBlock;
    const float* const middle = feature + f % (features / 2) * 2 * kBlock;
    const float* const fine = feature + f * kBlock;
    for (int s = 0; s < kBlock; s += kLanes) {
      VF sum = load(weights + s) * load(coarse + s);
      sum = fma(load(weights + kBlock + s), load(middle + s), sum);
      sum = fma(load(weights + 2 * kBlock + s), load(fine + s), sum);
      store(block.input + f * kBlock + s, sum);
    }
  }
}

// A network over the block: its input goes on after the direction with what it was trained with.
inline void network_block(const AnchorNetworks& networks, const AnchorBlock& block,
                          const MlpView& mlp, bool has_distance, float* out) {
  float* next = block.input + (networks.features + 3) * kBlock;
  if (has_distance) {
    std::memcpy(next, block.distance, sizeof(float) * kBlock);
    next += kBlock;
  }
  if (networks.level_input) {
    std::memcpy(next, block.row + (networks.width - 2) * kBlock, sizeof(float) * kBlock);
  }
  mlp_block(mlp, block.input, out, block.scratch);
}

// Gaussian `k` of a vector of anchors, as rows of kGaussianValues.
BELVEDERE_INLINE void gaussians_of(const AnchorBlock& block, int k, int s, VF opacity,
                                   const VF (&reach)[3], const VF (&size)[3],
                                   float (&out)[kLanes][kGaussianValues]) {
  VF values[kGaussianValues]{};
  for (int j = 0; j < 3; ++j) {
    const VF offset = load(block.row + (9 + 3 * k + j) * kBlock + s);
    values[j] = fma(offset, reach[j], load(block.row + j * kBlock + s));
    values[8 + j] = size[j] * sigmoid(load(block.covariance + (7 * k + j) * kBlock + s));
    values[12 + j] = (load(block.color + (3 * k + j) * kBlock + s) - 0.5f) * kInverseC0;
  }
  values[3] = opacity;
  VF square{};
  for (int j = 0; j < 4; ++j) {
    values[4 + j] = load(block.covariance + (7 * k + 3 + j) * kBlock + s);
    square = fma(values[4 + j], values[4 + j], square);
  }
  const VF length = sqrt(square);
  const Mask turned = greater(length, splat(kLeastLength));
  const VF scale = 1.0f / max(length, splat(kLeastLength));
  for (int j = 0; j < 4; ++j) {
    values[4 + j] = select(turned, values[4 + j] * scale, splat(j == 0 ? 1.0f : 0.0f));
  }
  for (int part = 0; part < kGaussianValues; part += kLanes) {
    VF columns[kLanes], rows[kLanes];
    for (int i = 0; i < kLanes; ++i) columns[i] = values[part + i];
    transpose(columns, rows);
    for (int i = 0; i < kLanes; ++i) store(out[i] + part, rows[i]);
  }
}

BELVEDERE_INLINE void put(const GaussianTarget& to, std::size_t at, const float* values) {
  std::memcpy(to.means + 3 * at, values, 12);
  to.opacities[at] = values[3];
  std::memcpy(to.quats + 4 * at, values + 4, 16);
  std::memcpy(to.scales + 3 * at, values + 8, 12);
  std::memcpy(to.sh + 3 * at, values + 12, 12);
}

// The Gaussians of `lanes` anchors from lane `s` of the block, by anchor and then by number.
inline std::size_t write_gaussians(const AnchorNetworks& networks, const AnchorBlock& block, int s,
                                   int lanes, float least, const GaussianTarget& to,
                                   std::size_t at) {
  std::size_t next[kLanes];
  int counts[kLanes]{};
  const std::uint32_t valid = lanes < kLanes ? (1u << lanes) - 1 : ~0u;
  for (int k = 0; k < networks.offsets; ++k) {
    std::uint32_t drawn =
        bits(greater(load(block.opacity + k * kBlock + s), splat(least))) & valid;
    for (; drawn; drawn &= drawn - 1) ++counts[__builtin_ctz(drawn)];
  }
  std::size_t end = at;
  for (int i = 0; i < kLanes; ++i) next[i] = end, end += counts[i];
  if (end == at) return at;
  VF reach[3], size[3];
  for (int j = 0; j < 3; ++j) {
    reach[j] = exp(load(block.row + (3 + j) * kBlock + s));
    size[j] = exp(load(block.row + (6 + j) * kBlock + s));
  }
  for (int k = 0; k < networks.offsets; ++k) {
    const VF opacity = load(block.opacity + k * kBlock + s);
    std::uint32_t drawn = bits(greater(opacity, splat(least))) & valid;
    if (!drawn) continue;
    alignas(64) float values[kLanes][kGaussianValues];
    gaussians_of(block, k, s, opacity, reach, size, values);
    for (; drawn; drawn &= drawn - 1) {
      const int lane = __builtin_ctz(drawn);
      put(to, next[lane]++, values[lane]);
    }
  }
  return end;
}

// Multiplies opacities by the anchors' shares; whether any Gaussian is left.
inline bool share_opacities(const AnchorNetworks& networks, const ChosenAnchors& in,
                            std::size_t first, float least, float* opacity) {
  alignas(64) float share[kBlock];
  for (int i = 0; i < kBlock; ++i) share[i] = first + i < in.count ? in.share[first + i] : 0.0f;
  bool is_any = false;
  for (int k = 0; k < networks.offsets; ++k) {
    for (int s = 0; s < kBlock; s += kLanes) {
      const VF shared = load(opacity + k * kBlock + s) * load(share + s);
      store(opacity + k * kBlock + s, shared);
      is_any |= any(greater(shared, splat(least)));
    }
  }
  return is_any;
}

// See types.h, Kernels::decode_anchors.
inline std::size_t decode_anchors(const AnchorNetworks& networks, const AnchorView& view,
                                  const ChosenAnchors& in, const GaussianTarget& to,
                                  float* scratch) {
  const AnchorBlock block(networks, scratch);
  std::size_t written = 0;
  for (std::size_t first = 0; first < in.count; first += kBlock) {
    gather_rows(networks, in, first, block.row);
    view_block(networks, view, block);
    network_block(networks, block, networks.opacity, networks.opacity_dist, block.opacity);
    if (!share_opacities(networks, in, first, view.least_opacity, block.opacity)) continue;
    network_block(networks, block, networks.color, networks.color_dist, block.color);
    network_block(networks, block, networks.covariance, networks.covariance_dist,
                  block.covariance);
    const int count = static_cast<int>(in.count - first < kBlock ? in.count - first : kBlock);
    for (int s = 0; s < count; s += kLanes) {
      const int lanes = count - s < kLanes ? count - s : kLanes;
      written = write_gaussians(networks, block, s, lanes, view.least_opacity, to, written);
    }
  }
  return written;
}

}  // namespace belvedere::BELVEDERE_ISA
