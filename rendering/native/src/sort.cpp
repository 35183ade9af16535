#include "sort.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace belvedere {
namespace {

constexpr int kMaxDigitBits = 9;
constexpr int kMaxPasses = 4;
constexpr std::size_t kSmall = 48;  // below, insertion beats clearing histograms

void insertion_sort(DepthItem* items, std::size_t count) {
  for (std::size_t i = 1; i < count; ++i) {
    const DepthItem item = items[i];
    std::size_t at = i;
    for (; at > 0 && items[at - 1].key > item.key; --at) items[at] = items[at - 1];
    items[at] = item;
  }
}

}  // namespace

DepthItem* sort_by_depth(DepthItem* items, DepthItem* scratch, std::size_t count) {
  if (count <= kSmall) {
    insertion_sort(items, count);
    return items;
  }
  std::uint32_t lowest = ~0u, highest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, items[i].key);
    highest = std::max(highest, items[i].key);
  }
  // Depths of one tile share their high bits: (key − lowest) needs fewer passes.
  const int bits = std::bit_width(highest - lowest);
  const int passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
  if (passes == 0) return items;
  const int digit_bits = (bits + passes - 1) / passes;
  const std::uint32_t mask = (1u << digit_bits) - 1;

  std::uint32_t histograms[kMaxPasses][1u << kMaxDigitBits];
  for (int pass = 0; pass < passes; ++pass) std::fill_n(histograms[pass], mask + 1, 0u);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t key = items[i].key - lowest;
    for (int pass = 0; pass < passes; ++pass, key >>= digit_bits) ++histograms[pass][key & mask];
  }
  for (int pass = 0; pass < passes; ++pass) {
    std::uint32_t* const next = histograms[pass];
    std::uint32_t offset = 0;
    for (std::uint32_t digit = 0; digit <= mask; ++digit) {
      offset += std::exchange(next[digit], offset);
    }
    const int shift = pass * digit_bits;
    for (std::size_t i = 0; i < count; ++i) {
      scratch[next[(items[i].key - lowest) >> shift & mask]++] = items[i];
    }
    std::swap(items, scratch);
  }
  return items;
}

}  // namespace belvedere
