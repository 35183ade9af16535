// Depth order within a tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "types.h"

namespace belvedere {

// Sorts `items` by key, equal keys in their given order: two radix passes over the 22 leading
// bits that differ, then the rare runs that agree in all of those. `scratch` has the same size.
void sort_by_depth(DepthItem* items, DepthItem* scratch, std::size_t count);

}  // namespace belvedere
