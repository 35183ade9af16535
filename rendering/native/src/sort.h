// Depth order: a stable parallel radix sort.
#pragma once

#include <cstddef>
#include <cstdint>

#include "types.h"

namespace belvedere {

struct KeyedSlot {
  std::uint32_t key;
  std::uint32_t slot;
};

// Sorts `items` by key, equal keys in their given order, using `scratch` of the same size.
// Returns whichever of the two holds the result. The result does not depend on `threads`.
KeyedSlot* radix_sort(KeyedSlot* items, KeyedSlot* scratch, std::size_t count, int threads);

}  // namespace belvedere
