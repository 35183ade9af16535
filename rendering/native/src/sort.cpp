#include "sort.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace belvedere {
namespace {

constexpr int kDigitBits = 11;
constexpr std::uint32_t kDigits = 1u << kDigitBits;
constexpr std::size_t kSmall = 24;  // up to here insertion beats clearing histograms

void insertion_sort(DepthItem* items, std::size_t count) {
  for (std::size_t i = 1; i < count; ++i) {
    const DepthItem item = items[i];
    std::size_t at = i;
    for (; at > 0 && items[at - 1].key > item.key; --at) items[at] = items[at - 1];
    items[at] = item;
  }
}

// Deals `from` into `to` by the digit of (key − lowest) at `shift`; `counts` is its histogram.
void deal(const DepthItem* from, DepthItem* to, std::size_t count, std::uint32_t lowest, int shift,
          std::uint32_t (&counts)[kDigits]) {
  std::uint32_t offset = 0;
  for (std::uint32_t& n : counts) offset += std::exchange(n, offset);
  for (std::size_t i = 0; i < count; ++i) {
    to[counts[(from[i].key - lowest) >> shift & (kDigits - 1)]++] = from[i];
  }
}

// Orders a run of keys that differ in fewer than kDigitBits trailing bits of (key − lowest).
void finish_run(DepthItem* run, DepthItem* scratch, std::size_t count, std::uint32_t lowest) {
  if (count <= kSmall) return insertion_sort(run, count);
  std::uint32_t counts[kDigits] = {};
  for (std::size_t i = 0; i < count; ++i) ++counts[(run[i].key - lowest) & (kDigits - 1)];
  deal(run, scratch, count, lowest, 0, counts);
  std::copy_n(scratch, count, run);
}

}  // namespace

void sort_by_depth(DepthItem* items, DepthItem* scratch, std::size_t count) {
  if (count <= kSmall) return insertion_sort(items, count);
  std::uint32_t lowest = ~0u, highest = 0;
  for (std::size_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, items[i].key);
    highest = std::max(highest, items[i].key);
  }
  const int bits = static_cast<int>(std::bit_width(highest - lowest));
  const int shift = std::max(0, bits - 2 * kDigitBits);
  std::uint32_t low[kDigits] = {}, high[kDigits] = {};
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t key = (items[i].key - lowest) >> shift;
    ++low[key & (kDigits - 1)];
    ++high[key >> kDigitBits];
  }
  deal(items, scratch, count, lowest, shift, low);
  deal(scratch, items, count, lowest, shift + kDigitBits, high);
  if (shift == 0) return;
  std::size_t begin = 0;
  for (std::size_t i = 1; i <= count; ++i) {
    if (i < count && ((items[i].key - lowest) >> shift) == ((items[begin].key - lowest) >> shift)) {
      continue;
    }
    if (i - begin > 1) finish_run(items + begin, scratch, i - begin, lowest);
    begin = i;
  }
}

}  // namespace belvedere
