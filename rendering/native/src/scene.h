// From plain arrays to the packed scene that projection streams through.
#pragma once

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

void pack_scene(const GaussianArrays& in, int threads, PackedScene& out);

}  // namespace belvedere
