// What decoding neural anchors needs (splat/anchors.py has the equations); plain data, as types.h.
#pragma once

#include "types.h"

namespace belvedere::neural {

constexpr int kMostLevels = 64;

enum class LevelRule : int { kFloor = 0, kRound = 1, kCeil = 2, kProgressive = 3 };

struct OctreeView {
  int levels;  // 0 without an octree
  LevelRule rule;
  float standard_dist, res_scale;
  float per_log2;               // 1 / log2(fork)
  float half_voxel[kMostLevels];  // of each level, world units
};

// What all anchors of a model share. A row of an anchor is `width` floats: mean 3, scales 6,
// offsets 3 · `offsets`, feature, and of an octree level and extra level.
struct AnchorNetworks {
  MlpView opacity, color, covariance, bank;
  bool has_bank, bank_distance, bank_level;
  bool opacity_dist, color_dist, covariance_dist, level_input;
  int offsets, features, width;
  OctreeView octree;
};

struct AnchorView {
  double center[3];     // from where anchors are seen
  float least_opacity;  // Gaussians of no more than that are left out
};

// Rows of anchors, and which of them: indices with the shares of their opacities that count.
struct ChosenAnchors {
  const float* rows;
  const std::int32_t* index;
  const float* share;
  std::size_t count;
};

// What a view sees (splat/bounds.py, ViewVolume): spheres of which the nearest point along each
// `normal` is no further than the offset plus the reach of their largest deviation.
struct FrustumSide {
  float normal[3], length, offset, reach;
};
struct FrustumView {
  float position[3];
  float slack;  // of rounding, world units
  FrustumSide sides[6];
};

// Spheres of n anchors, five rows of n: mean, radius, largest deviation.
struct AnchorSpheres {
  const float* rows;
  std::size_t count;
};

// Where Gaussians go: arrays as of splat/gaussians.py, with room for all.
struct GaussianTarget {
  float* means;
  float* quats;
  float* scales;
  float* opacities;
  float* sh;
};

}  // namespace belvedere::neural
