#include "draw_list.h"

#include <algorithm>
#include <cmath>

namespace belvedere {

void DrawList::append(const PackedGaussians& scene, float weight, const float (&tint)[3],
                      float tint_share) {
  const float log2_weight = std::log2(weight);
  for (std::size_t chunk = 0; chunk < scene.view.chunks; ++chunk) {
    const std::size_t first = chunk * kChunkBlocks;
    const std::size_t blocks = std::min<std::size_t>(kChunkBlocks, scene.view.blocks - first);
    chunks.push_back({&scene.view, static_cast<std::uint32_t>(chunk),
                      static_cast<std::uint32_t>(blocks),
                      static_cast<std::uint32_t>(count + first * kPackLanes), log2_weight,
                      {tint[0], tint[1], tint[2]}, tint_share});
  }
  count += scene.count;
}

}  // namespace belvedere
