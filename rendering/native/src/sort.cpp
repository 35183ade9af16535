#include "sort.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "thread_pool.h"

namespace belvedere {
namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
using Histogram = std::array<std::uint32_t, kDigits>;

// Shares small enough to balance, large enough that a histogram is cheap beside them.
std::size_t share_count(std::size_t count, int threads) {
  return std::clamp<std::size_t>(count / 16384, 1, static_cast<std::size_t>(std::max(threads, 1)));
}

}  // namespace

KeyedSlot* radix_sort(KeyedSlot* items, KeyedSlot* scratch, std::size_t count, int threads) {
  if (count < 2) return items;
  ThreadPool& pool = ThreadPool::instance();
  const std::size_t shares = share_count(count, threads);
  const auto begin_of = [&](std::size_t share) { return count * share / shares; };

  // Depths of one view share their high bits: sorting (key − lowest) needs fewer passes.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges(shares);
  pool.parallel_for(shares, threads, [&](std::size_t share) {
    std::uint32_t lo = ~0u, hi = 0;
    for (std::size_t i = begin_of(share); i < begin_of(share + 1); ++i) {
      lo = std::min(lo, items[i].key);
      hi = std::max(hi, items[i].key);
    }
    ranges[share] = {lo, hi};
  });
  std::uint32_t lowest = ~0u, highest = 0;
  for (const auto& [lo, hi] : ranges) {
    lowest = std::min(lowest, lo);
    highest = std::max(highest, hi);
  }
  const int passes = (std::bit_width(highest - lowest) + kDigitBits - 1) / kDigitBits;

  std::vector<Histogram> histograms(shares);
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = pass * kDigitBits;
    const auto digit = [=](const KeyedSlot& item) {
      return ((item.key - lowest) >> shift) & (kDigits - 1);
    };
    pool.parallel_for(shares, threads, [&](std::size_t share) {
      Histogram& histogram = histograms[share];
      histogram.fill(0);
      for (std::size_t i = begin_of(share); i < begin_of(share + 1); ++i) {
        ++histogram[digit(items[i])];
      }
    });
    std::uint32_t offset = 0;
    for (std::size_t d = 0; d < kDigits; ++d) {
      for (Histogram& histogram : histograms) {
        const std::uint32_t here = histogram[d];
        histogram[d] = offset;
        offset += here;
      }
    }
    pool.parallel_for(shares, threads, [&](std::size_t share) {
      Histogram& next = histograms[share];
      for (std::size_t i = begin_of(share); i < begin_of(share + 1); ++i) {
        scratch[next[digit(items[i])]++] = items[i];
      }
    });
    std::swap(items, scratch);
  }
  return items;
}

}  // namespace belvedere
