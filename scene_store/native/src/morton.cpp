#include "morton.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using Means = nb::ndarray<const float, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Keys = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewKeys = nb::ndarray<std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewOrder = nb::ndarray<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

void morton_codes(const Means& means, std::array<double, 3> corner, double cells_per_unit,
                  const NewKeys& out) {
  const std::size_t count = means.shape(0);
  if (out.shape(0) != count) throw std::invalid_argument("codes must have one entry a mean");
  const float* mean = means.data();
  std::uint64_t* code = out.data();
  nb::gil_scoped_release released;
  constexpr double kLast = (1 << kMortonBitsPerAxis) - 1;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t cell[3];
    for (int k = 0; k < 3; ++k) {
      const double place = (mean[3 * i + k] - corner[k]) * cells_per_unit;
      // What lies outside, or is not a number, shares the outermost cells.
      cell[k] = static_cast<std::uint64_t>(place > 0 ? std::min(place, kLast) : 0.0);
    }
    code[i] = morton_code(cell[0], cell[1], cell[2]);
  }
}

void sort_by_code(const Keys& codes, const NewOrder& order) {
  const std::size_t count = codes.shape(0);
  if (order.shape(0) != count || count > UINT32_MAX) {
    throw std::invalid_argument("order must have one entry a code, and at most 2^32");
  }
  nb::gil_scoped_release released;
  std::vector<std::uint64_t> keys(codes.data(), codes.data() + count);
  sort_by_key(keys.data(), order.data(), count);
}

}  // namespace

void sort_by_key(std::uint64_t* keys, std::uint32_t* order, std::size_t count) {
  std::iota(order, order + count, 0u);
  std::uint64_t any = 0, all = ~std::uint64_t{0};
  for (std::size_t i = 0; i < count; ++i) any |= keys[i], all &= keys[i];
  const std::uint64_t differing = count ? any & ~all : 0;
  std::vector<std::uint64_t> other_keys(count);
  std::vector<std::uint32_t> other_order(count);
  std::uint64_t *from_keys = keys, *to_keys = other_keys.data();
  std::uint32_t *from = order, *to = other_order.data();
  std::vector<std::size_t> start(kDigits);
  for (int shift = 0; shift < 64; shift += kDigitBits) {
    if ((differing >> shift & (kDigits - 1)) == 0) continue;
    std::fill(start.begin(), start.end(), 0);
    for (std::size_t i = 0; i < count; ++i) ++start[from_keys[i] >> shift & (kDigits - 1)];
    std::exclusive_scan(start.begin(), start.end(), start.begin(), std::size_t{0});
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t place = start[from_keys[i] >> shift & (kDigits - 1)]++;
      to_keys[place] = from_keys[i];
      to[place] = from[i];
    }
    std::swap(from_keys, to_keys);
    std::swap(from, to);
  }
  if (from != order) std::copy(from, from + count, order);
}

void bind_morton(nb::module_& m) {
  m.def("morton_codes", &morton_codes, "means"_a, "corner"_a, "cells_per_unit"_a, "out"_a);
  m.def("sort_by_code", &sort_by_code, "codes"_a, "order"_a);
}

}  // namespace belvedere::store
