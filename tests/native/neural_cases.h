// Random inputs for the kernels of neural models, and what these make of them. Nothing here
// calls the C library's mathematics, which rounds as it likes: the inputs are the same everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "types.h"

namespace belvedere::neural::cases {

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}

  std::uint32_t below(std::uint32_t count) { return static_cast<std::uint32_t>(engine_() % count); }
  float uniform(float low, float high) {
    return low + (high - low) * (static_cast<float>(below(1u << 20)) / static_cast<float>(1u << 20));
  }
  std::vector<float> uniforms(std::size_t count, float low, float high) {
    std::vector<float> out(count);
    for (float& v : out) v = uniform(low, high);
    return out;
  }

 private:
  std::mt19937 engine_;  // portable; the library's distributions are not
};

// What a case gave. Values may differ by `tolerance`, relative to 1 or to themselves, whichever is
// more, from those of kernels that round otherwise.
struct Result {
  std::string name;
  double tolerance;
  std::vector<float> values;
};

constexpr double kUlp = 1.0 / (1 << 23);

// Numbers that break what was not made for them. Without those whose sums overflow or cancel.
inline const std::vector<float>& extremes() {
  using Limits = std::numeric_limits<float>;
  static const std::vector<float> values = {
      Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), -0.0f, 0.0f,
      Limits::denorm_min(), -Limits::min(), 1.0f, -1.0f, Limits::epsilon()};
  return values;
}

// Rows of a few blocks, one after the other, of which the last has extremes.
inline std::vector<float> blocks(Random& random, int rows, float low, float high,
                                 int count = 3) {
  const std::size_t block = static_cast<std::size_t>(rows) * kBlock;
  std::vector<float> out = random.uniforms(block * count, low, high);
  for (std::size_t i = block * (count - 1); i < out.size(); ++i) {
    if (random.below(3) == 0) out[i] = extremes()[random.below(10)];
  }
  return out;
}

// Each adds its results to `out`.
void add_mlps(const Kernels& kernels, std::vector<Result>& out);
void add_encodings(const Kernels& kernels, std::vector<Result>& out);
void add_elementary(const Kernels& kernels, std::vector<Result>& out);
void add_networks(const Kernels& kernels, std::vector<Result>& out);
void add_anchors(const Kernels& kernels, std::vector<Result>& out);
// Of what is compiled once, for all instruction sets.
void add_rays(std::vector<Result>& out);

}  // namespace belvedere::neural::cases
