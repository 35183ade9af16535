// Keys along the Z-curve, and a stable sort by them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace belvedere::store {

constexpr int kMortonBitsPerAxis = 21;

// The bits of a 21-bit number, two zeros between each and the next.
constexpr std::uint64_t spread_bits(std::uint64_t v) {
  v = (v | v << 32) & 0x1F00000000FFFF;
  v = (v | v << 16) & 0x1F0000FF0000FF;
  v = (v | v << 8) & 0x100F00F00F00F00F;
  v = (v | v << 4) & 0x10C30C30C30C30C3;
  return (v | v << 2) & 0x1249249249249249;
}

constexpr std::uint64_t morton_code(std::uint64_t x, std::uint64_t y, std::uint64_t z) {
  return spread_bits(x) | spread_bits(y) << 1 | spread_bits(z) << 2;
}

// Writes to `order` the indices 0 … count − 1 by growing key, equal keys in their given order.
// `keys` is left in an unspecified state.
void sort_by_key(std::uint64_t* keys, std::uint32_t* order, std::size_t count);

}  // namespace belvedere::store
