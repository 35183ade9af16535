// Do all kernels of neural models compute the same on this processor? A program without Python,
// so that it can be compiled for another processor and run under an emulator (tests/test_neon.py).
//
// Runs cases of random inputs on every instruction set; prints one line a case, with a digest of
// what came out, and exits with 1 where kernels differ by more than rounding may. Kernels that
// fuse the same products and sums (AVX2's and NEON's) have the same digests on all processors.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "dispatch.h"
#include "neural_cases.h"

using namespace belvedere::neural;
using cases::Result;

namespace {

std::vector<Result> results_of(const Kernels& kernels) {
  std::vector<Result> out;
  cases::add_mlps(kernels, out);
  cases::add_encodings(kernels, out);
  cases::add_elementary(kernels, out);
  cases::add_networks(kernels, out);
  cases::add_anchors(kernels, out);
  return out;
}

// Of the bits, FNV-1a. One that is no number is like another, and zeros have no sign: which of
// two operands a processor's maximum takes then says nothing.
std::uint64_t digest_of(const std::vector<float>& values) {
  std::uint64_t hash = 14695981039346656037u;
  for (const float value : values) {
    std::uint32_t word = 0x7fc00000;
    if (!std::isnan(value)) std::memcpy(&word, &value, sizeof word);
    if (value == 0) word = 0;
    hash = (hash ^ word) * 1099511628211u;
  }
  return hash;
}

// In units of what is allowed; infinite where one is no number or not finite and the other is.
double error_of(const Result& found, const Result& expected) {
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  if (found.values.size() != expected.values.size()) return kWrong;
  double worst = 0;
  for (std::size_t i = 0; i < found.values.size(); ++i) {
    const double a = found.values[i], b = expected.values[i];
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (!std::isfinite(a) || !std::isfinite(b)) return kWrong;
    worst = std::max(worst, std::fabs(a - b) / (expected.tolerance * std::max(1.0, std::fabs(b))));
  }
  return worst;
}

// Whether it says anything: of its values a quarter are finite and not 0.
bool is_telling(const Result& result) {
  const auto telling = std::count_if(result.values.begin(), result.values.end(), [](float value) {
    return std::isfinite(value) && value != 0;
  });
  return telling > 0 && 4 * static_cast<std::size_t>(telling) >= result.values.size();
}

bool report(const char* kernels, const Result& result, const Result& expected) {
  const double error = error_of(result, expected);
  const bool agrees = error <= 1 && is_telling(result);
  std::printf("%s %s: %zu values, error %.3f of %.1e, digest %016llx%s\n", kernels,
              result.name.c_str(), result.values.size(), error, expected.tolerance,
              static_cast<unsigned long long>(digest_of(result.values)),
              agrees ? "" : is_telling(result) ? " DISAGREES" : " SAYS NOTHING");
  return agrees;
}

}  // namespace

int main() {
  const std::vector<Result> expected = results_of(*available_kernels().back());
  bool agree = true;
  for (const Kernels* kernels : available_kernels()) {
    const std::vector<Result> found = results_of(*kernels);
    for (std::size_t i = 0; i < found.size(); ++i) {
      agree = report(kernels->name, found[i], expected[i]) && agree;
    }
  }
  std::vector<Result> rays;
  cases::add_rays(rays);
  for (const Result& result : rays) agree = report("any", result, result) && agree;
  return agree ? 0 : 1;
}
