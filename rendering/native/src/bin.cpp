#include "bin.h"

#include <algorithm>
#include <bit>

#include "ellipse.h"
#include "thread_pool.h"

namespace belvedere {
namespace {

// Calls visit(tile) for every tile the splat touches, in row-major order.
template <typename Visit>
inline void for_each_tile(const TileRect& rect, const Splat& splat, TileGrid grid, Visit visit) {
  const int corner = rect.ty * grid.columns + rect.tx;
  if (rect.nx <= 4 && rect.ny <= 4) {
    for (unsigned mask = rect.mask; mask; mask &= mask - 1) {
      const int bit = std::countr_zero(mask);
      visit(corner + (bit >> 2) * grid.columns + (bit & 3));
    }
    return;
  }
  for (int row = 0; row < rect.ny; ++row) {
    const float top = static_cast<float>((rect.ty + row) * kTileSize);
    const Span span = span_of_band(splat, top + 0.5f, top + kTileSize - 0.5f);
    if (span.empty) continue;
    // A pixel centre lies half a pixel in; 0.01 px covers the rounding of the span.
    const float left = std::clamp((span.left - 0.51f) / kTileSize - rect.tx, 0.0f, rect.nx - 1.0f);
    const float right =
        std::clamp((span.right - 0.49f) / kTileSize - rect.tx, 0.0f, rect.nx - 1.0f);
    const int first = corner + row * grid.columns;
    for (int column = static_cast<int>(left); column <= static_cast<int>(right); ++column) {
      visit(first + column);
    }
  }
}

}  // namespace

void bin_tiles(const KeyedSlot* sorted, std::size_t count, const Splat* splats,
               const TileRect* rects, TileGrid grid, int threads, TileLists& out) {
  ThreadPool& pool = ThreadPool::instance();
  const std::size_t tiles = static_cast<std::size_t>(grid.tiles());
  const std::size_t shares =
      std::clamp<std::size_t>(count / 8192, 1, static_cast<std::size_t>(std::max(threads, 1)));
  const auto begin_of = [&](std::size_t share) { return count * share / shares; };
  constexpr std::size_t kAhead = 32;  // rects are visited in depth order: all over memory

  std::vector<std::uint32_t> counts(shares * tiles, 0);
  pool.parallel_for(shares, threads, [&](std::size_t share) {
    std::uint32_t* mine = counts.data() + share * tiles;
    for (std::size_t i = begin_of(share); i < begin_of(share + 1); ++i) {
      if (i + kAhead < count) __builtin_prefetch(&rects[sorted[i + kAhead].slot]);
      const std::uint32_t slot = sorted[i].slot;
      for_each_tile(rects[slot], splats[slot], grid, [&](int tile) { ++mine[tile]; });
    }
  });

  out.begin.resize(tiles + 1);
  std::uint32_t offset = 0;
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    out.begin[tile] = offset;
    for (std::size_t share = 0; share < shares; ++share) {
      std::uint32_t& here = counts[share * tiles + tile];
      const std::uint32_t n = here;
      here = offset;
      offset += n;
    }
  }
  out.begin[tiles] = offset;

  std::uint32_t* slots = out.slots.resize_uncleared(offset);
  pool.parallel_for(shares, threads, [&](std::size_t share) {
    std::uint32_t* next = counts.data() + share * tiles;
    for (std::size_t i = begin_of(share); i < begin_of(share + 1); ++i) {
      if (i + kAhead < count) __builtin_prefetch(&rects[sorted[i + kAhead].slot]);
      const std::uint32_t slot = sorted[i].slot;
      for_each_tile(rects[slot], splats[slot], grid,
                    [&](int tile) { slots[next[tile]++] = slot; });
    }
  });
}

}  // namespace belvedere
