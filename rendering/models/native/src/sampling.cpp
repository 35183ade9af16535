#include "sampling.h"

#include <algorithm>
#include <cmath>

namespace belvedere::neural {
namespace {

// What is not a number, or not above 0, counts as 0.
double weight_of(float w) { return w > 0 ? std::min<double>(w, 3e38) : 0; }
double place_of(float v) { return std::isfinite(v) ? v : 0; }

// Cumulative sums of n weights over the whole, from 0 to 1: n + 1 of them.
void accumulate(std::vector<double>& sums) {
  for (std::size_t i = 1; i < sums.size(); ++i) sums[i] += sums[i - 1];
  const double whole = sums.back();
  for (double& sum : sums) sum = whole > 0 ? std::min(sum / whole, 1.0) : 0;
}

}  // namespace

void borders_from_weights(const float* borders, const float* weights, int n, int count,
                          float padding, RayScratch& scratch, float* out) {
  std::vector<double>& sums = scratch.cumulative;
  sums.assign(n + 1, 0);
  double whole = 0;
  for (int i = 0; i < n; ++i) whole += sums[i + 1] = weight_of(weights[i]) + padding;
  // Of nothing at all, everything alike.
  if (whole < 1e-5) {
    for (int i = 1; i <= n; ++i) sums[i] += (1e-5 - whole) / n;
  }
  accumulate(sums);
  int bin = 0;
  for (int i = 0; i <= count; ++i) {
    const double u = (i + 0.5) / (count + 1);
    while (bin + 1 < n && sums[bin + 1] <= u) ++bin;
    const double width = sums[bin + 1] - sums[bin];
    const double share = width > 0 ? std::clamp((u - sums[bin]) / width, 0.0, 1.0) : 0;
    const double near = place_of(borders[bin]), far = place_of(borders[bin + 1]);
    out[i] = static_cast<float>(near + share * (far - near));
  }
}

void samples_from_weights(const float* t, const float* weights, int n, int count,
                          RayScratch& scratch, float* out) {
  // n − 1 middles are the borders of n − 2 bins.
  std::vector<double>&sums = scratch.cumulative, &places = scratch.places;
  sums.assign(n - 1, 0);
  places.resize(n - 1);
  for (int i = 0; i + 1 < n; ++i) places[i] = 0.5 * (place_of(t[i]) + place_of(t[i + 1]));
  for (int i = 1; i + 1 < n; ++i) sums[i] = weight_of(weights[i]) + 1e-5;
  accumulate(sums);
  for (int i = 0; i < n; ++i) out[i] = static_cast<float>(place_of(t[i]));
  int bin = 0;
  for (int i = 0; i < count; ++i) {
    const double u = count > 1 ? static_cast<double>(i) / (count - 1) : 0;
    while (bin < n - 2 && sums[bin + 1] <= u) ++bin;
    if (bin == n - 2) {
      out[n + i] = static_cast<float>(places[bin]);
      continue;
    }
    const double width = sums[bin + 1] - sums[bin];
    const double share = (u - sums[bin]) / (width < 1e-5 ? 1.0 : width);
    out[n + i] = static_cast<float>(places[bin] + share * (places[bin + 1] - places[bin]));
  }
  std::sort(out, out + n + count);
}

void composite(const PackedSamples& samples, std::size_t first, std::size_t end, float opaque,
               const Accumulators& into) {
  for (std::size_t i = first; i < end; ++i) {
    const std::size_t ray = samples.ray[i];
    float& transmittance = into.transmittance[ray];
    if (!(transmittance > opaque)) continue;
    const float alpha = samples.opacities[i], weight = transmittance * alpha;
    for (int c = 0; c < 3; ++c) {
      const float color = samples.colors[c * samples.count + i];
      into.color[c * into.rays + ray] += weight * color;
      into.last_color[c * into.rays + ray] = color;
    }
    into.depth[ray] += weight * samples.t[i];
    const float left = transmittance * (1.0f - alpha);
    if (transmittance > 0.5f && left <= 0.5f) into.median[ray] = samples.t[i];
    transmittance = left;
  }
}

}  // namespace belvedere::neural
