// From plain arrays to the packed scene that projection streams through.
#pragma once

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "types.h"

namespace belvedere {

// Arrays as in splat/gaussians.py, row-major; sh has (sh_degree + 1)^2 × 3 floats each.
struct GaussianArrays {
  std::size_t count;
  int sh_degree;
  const float* means;
  const float* quats;
  const float* scales;
  const float* opacities;
  const float* sh;
};

// Owns what a SceneView shows.
struct PackedScene {
  std::size_t count = 0;
  std::size_t blocks = 0;
  std::size_t chunks = 0;
  int sh_degree = 0;
  Buffer<GeometryBlock> geometry;
  Buffer<std::int16_t> sh_rest;
  Buffer<float> sh_rest_scale;
  Buffer<ChunkBounds> bounds;

  SceneView view() const;
  std::size_t bytes() const;  // of memory
};

void pack_scene(const GaussianArrays& in, int threads, PackedScene& out);

}  // namespace belvedere
