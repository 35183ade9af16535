// From depth order to one front-to-back list of splats for every tile.
#pragma once

#include <cstdint>
#include <vector>

#include "sort.h"
#include "types.h"

namespace belvedere {

struct TileGrid {
  int columns, rows;
  int tiles() const { return columns * rows; }
};

struct TileLists {
  std::vector<std::uint32_t> begin;  // [tiles + 1] into slots
  Buffer<std::uint32_t> slots;
};

// `sorted` is front to back; lists keep that order. The result does not depend on `threads`.
void bin_tiles(const KeyedSlot* sorted, std::size_t count, const Splat* splats,
               const TileRect* rects, TileGrid grid, int threads, TileLists& out);

}  // namespace belvedere
