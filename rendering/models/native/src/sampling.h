// Where samples of rays go, and what becomes of them: inverse cumulative functions, compositing.
// All of single rays, in double precision where sums are formed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace belvedere::neural {

// Room for one ray, used again for the next.
struct RayScratch {
  std::vector<double> cumulative;
  std::vector<double> places;
};

// nerfstudio's PDFSampler in evaluation: `borders` [n + 1] and `weights` [n] → [count + 1].
void borders_from_weights(const float* borders, const float* weights, int n, int count,
                          float padding, RayScratch& scratch, float* out);

// Plain NeRF's sample_pdf with det=True, merged: `t` [n] and `weights` [n] → [n + count],
// ascending.
void samples_from_weights(const float* t, const float* weights, int n, int count,
                          RayScratch& scratch, float* out);

// Rays' accumulators, [rays] each; colours [3][rays].
struct Accumulators {
  float* color;
  float* transmittance;
  float* depth;
  float* median;
  float* last_color;
  std::size_t rays;
};

struct PackedSamples {
  const std::int32_t* ray;
  const float* t;
  const float* opacities;
  const float* colors;  // [3][count]
  std::size_t count;
};

// Blends samples [first, end), front to back.
void composite(const PackedSamples& samples, std::size_t first, std::size_t end, float opaque,
               const Accumulators& into);

}  // namespace belvedere::neural
