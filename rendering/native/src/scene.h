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

// How much of each array a scene takes.
struct SceneSize {
  SceneSize(std::size_t gaussians, int sh_degree);

  std::size_t blocks, chunks;
  std::size_t sh_rest_rows;
  std::size_t sh_rest() const { return blocks * sh_rest_rows * kPackLanes; }
  std::size_t sh_rest_scales() const { return sh_rest_rows ? blocks * kPackLanes : 0; }
};

// Gaussians ready to be drawn. Who owns the memory is the subclass's affair.
struct PackedGaussians {
  std::size_t count = 0;
  SceneView view{};

  virtual ~PackedGaussians() = default;
  virtual std::size_t bytes() const = 0;  // of memory
};

// A scene of any size, in memory of its own.
struct PackedScene : PackedGaussians {
  Buffer<GeometryBlock> geometry;
  Buffer<std::int16_t> sh_rest;
  Buffer<float> sh_rest_scale;
  Buffer<ChunkBounds> bounds;

  std::size_t bytes() const override;
};

void pack_scene(const GaussianArrays& in, int threads, PackedScene& out);

// Where pack_into writes: arrays with room for a SceneSize.
struct SceneMemory {
  GeometryBlock* geometry;
  std::int16_t* sh_rest;
  float* sh_rest_scale;
  ChunkBounds* bounds;
};

// The view of `memory` after the Gaussians were written to it.
SceneView pack_into(const GaussianArrays& in, int threads, const SceneMemory& memory);

}  // namespace belvedere
