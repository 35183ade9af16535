// What a frame draws: chunks of one packed scene or of many.
#pragma once

#include <cstddef>
#include <vector>

#include "scene.h"
#include "types.h"

namespace belvedere {

struct DrawList {
  std::vector<ChunkDraw> chunks;
  std::size_t count = 0;  // Gaussians

  // All chunks of `scene`, which has to outlive the list. `weight` in (0, 1] multiplies the
  // opacities; `tint_share` in [0, 1] of `tint` replaces as much of the colours.
  void append(const PackedGaussians& scene, float weight = 1, const float (&tint)[3] = {0, 0, 0},
              float tint_share = 0);
};

}  // namespace belvedere
