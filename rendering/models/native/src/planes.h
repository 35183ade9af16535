// Planes times lines (splat.fields.PlaneEncoding) over blocks of samples.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "elementary.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

using neural::EncodingView;
using neural::kBlock;
using neural::PlaneView;

// Between which two of `held` texels every sample lies; these are those from `start` on of
// `whole` over [0, 1].
struct Texels {
  alignas(64) std::int32_t near[kBlock], far[kBlock];
  alignas(64) float fraction[kBlock];
};

inline void locate(const float* x, int whole, int start, int held, Texels& texels) {
  const VF last = splat(static_cast<float>(held - 1));
  for (int s = 0; s < kBlock; s += kLanes) {
    // What is no number becomes 0.
    const VF u = min(max(load(x + s), VF{}), splat(1.0f)) * static_cast<float>(whole - 1);
    const VF texel = floor(u);
    const VF near = clamp(texel - static_cast<float>(start), VF{}, last);
    const VI first = truncate(near), second = truncate(min(near + 1.0f, last));
    std::memcpy(texels.near + s, &first, sizeof first);
    std::memcpy(texels.far + s, &second, sizeof second);
    store(texels.fraction + s, u - texel);
  }
}

BELVEDERE_INLINE VF gather(const float* values, const std::int32_t* index) {
  VF out;
  for (int i = 0; i < kLanes; ++i) out[i] = values[index[i]];
  return out;
}

BELVEDERE_INLINE VF mix(VF a, VF b, VF fraction) { return fma(fraction, b - a, a); }

inline void encode_plane(const PlaneView& p, const float* in, bool summed, float* out) {
  Texels columns, rows, points;
  locate(in + p.axes[0] * kBlock, p.whole_width, p.column, p.width, columns);
  locate(in + p.axes[1] * kBlock, p.whole_height, p.row, p.height, rows);
  if (p.line) locate(in + p.axes[2] * kBlock, p.length, 0, p.length, points);
  for (int s = 0; s < kBlock; ++s) {
    rows.near[s] *= p.width;
    rows.far[s] *= p.width;
  }
  for (int s = 0; s < kBlock; s += kLanes) {
    VI x0, x1, y0, y1;
    std::memcpy(&x0, columns.near + s, sizeof x0), std::memcpy(&x1, columns.far + s, sizeof x1);
    std::memcpy(&y0, rows.near + s, sizeof y0), std::memcpy(&y1, rows.far + s, sizeof y1);
    alignas(64) std::int32_t corners[4][kLanes];
    const VI sums[4] = {y0 + x0, y0 + x1, y1 + x0, y1 + x1};
    std::memcpy(corners, sums, sizeof corners);
    const VF fx = load(columns.fraction + s), fy = load(rows.fraction + s);
    VF total{};
    for (int c = 0; c < p.channels; ++c) {
      const float* plane = p.plane + static_cast<std::ptrdiff_t>(c) * p.width * p.height;
      const VF top = mix(gather(plane, corners[0]), gather(plane, corners[1]), fx);
      const VF bottom = mix(gather(plane, corners[2]), gather(plane, corners[3]), fx);
      VF value = mix(top, bottom, fy);
      if (p.line) {
        const float* line = p.line + static_cast<std::ptrdiff_t>(c) * p.length;
        value *= mix(gather(line, points.near + s), gather(line, points.far + s),
                     load(points.fraction + s));
      }
      total += value;
      if (!summed) store(out + c * kBlock + s, value);
    }
    if (summed) store(out + s, total);
  }
}

inline void encode_planes(const EncodingView& e, const float* in, float* out) {
  for (int i = 0; i < e.plane_count; ++i) {
    encode_plane(e.planes[i], in, e.summed, out);
    out += (e.summed ? 1 : e.planes[i].channels) * kBlock;
  }
}

}  // namespace belvedere::BELVEDERE_ISA
