// Encodings of positions and directions over blocks of samples (splat/fields.py).
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "elementary.h"
#include "hash_grid.h"
#include "planes.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

using neural::EncodingKind;
using neural::EncodingView;

// sin(f x), cos(f x), in either order (splat.fields.FrequencyEncoding).
inline void encode_frequencies(const EncodingView& e, const float* in, float* out) {
  const int dims = e.inputs, count = e.frequencies;
  const std::size_t input_bytes = sizeof(float) * kBlock * dims;
  if (e.input_first) {
    std::memcpy(out, in, input_bytes);
    out += dims * kBlock;
  }
  for (int f = 0; f < count; ++f) {
    const VD turns = e.quarter_turns[f] - VD{};
    for (int d = 0; d < dims; ++d) {
      const int sine_row = e.by_dimension ? d * count + f : 2 * f * dims + d;
      const int cosine_row = e.by_dimension ? (dims + d) * count + f : (2 * f + 1) * dims + d;
      for (int s = 0; s < kBlock; s += kLanes) {
        const VD x = __builtin_convertvector(load(in + d * kBlock + s), VD);
        VF sine, cosine;
        sine_cosine(x * turns, sine, cosine);
        store(out + sine_row * kBlock + s, sine);
        store(out + cosine_row * kBlock + s, cosine);
      }
    }
  }
  if (e.input_last) std::memcpy(out + 2 * count * dims * kBlock, in, input_bytes);
}

// Real spherical harmonics as polynomials of a unit direction, with Condon and Shortley's sign
// (Sloan 2013, appendix A2, divided by nothing).
inline void encode_harmonics(const EncodingView& e, const float* in, float* out) {
  for (int k = 0; k < kBlock; k += kLanes) {
    VF x = load(in + k), y = load(in + kBlock + k), z = load(in + 2 * kBlock + k);
    if (e.remapped) {
      x = (x + 1.0f) * 0.5f;
      y = (y + 1.0f) * 0.5f;
      z = (z + 1.0f) * 0.5f;
    }
    float* row = out + k;
    const auto put = [&row](VF v) {
      store(row, v);
      row += kBlock;
    };
    put(splat(0.28209479f));
    if (e.degree == 1) continue;
    put(y * -0.48860251f);
    put(z * 0.48860251f);
    put(x * -0.48860251f);
    if (e.degree == 2) continue;
    const VF xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    put(xy * 1.09254843f);
    put(yz * -1.09254843f);
    put(fma(zz, splat(0.94617470f), splat(-0.31539157f)));
    put(xz * -1.09254843f);
    put((xx - yy) * 0.54627422f);
    if (e.degree == 3) continue;
    const VF zz5 = zz * 5.0f, xx3 = xx * 3.0f, yy3 = yy * 3.0f;
    put(y * (yy - xx3) * 0.59004359f);
    put(xy * z * 2.89061144f);
    put(y * (1.0f - zz5) * 0.45704580f);
    put(z * (zz5 - 3.0f) * 0.37317633f);
    put(x * (1.0f - zz5) * 0.45704580f);
    put(z * (xx - yy) * 1.44530572f);
    put(x * (yy3 - xx) * 0.59004359f);
    if (e.degree == 4) continue;
    const VF zz7 = zz * 7.0f;
    put(xy * (xx - yy) * 2.50334294f);
    put(yz * (yy - xx3) * 1.77013077f);
    put(xy * (zz7 - 1.0f) * 0.94617470f);
    put(yz * (3.0f - zz7) * 0.66904654f);
    put(fma(zz, fma(zz, splat(3.70249414f), splat(-3.17356641f)), splat(0.31735664f)));
    put(xz * (3.0f - zz7) * 0.66904654f);
    put((xx - yy) * (zz7 - 1.0f) * 0.47308735f);
    put(xz * (yy3 - xx) * 1.77013077f);
    put((xx * (xx - yy3) - yy * (xx3 - yy)) * 0.62583574f);
  }
}

// See types.h, Kernels::encode.
inline void encode_block(const EncodingView& e, const float* in, float* out) {
  switch (e.kind) {
    case EncodingKind::kIdentity:
      std::memcpy(out, in, sizeof(float) * kBlock * e.inputs);
      return;
    case EncodingKind::kFrequency:
      return encode_frequencies(e, in, out);
    case EncodingKind::kHarmonics:
      return encode_harmonics(e, in, out);
    case EncodingKind::kHashGrid:
      return encode_hash_grid(e, in, out);
    case EncodingKind::kPlanes:
      return encode_planes(e, in, out);
    case EncodingKind::kParts:
      for (int i = 0; i < e.part_count; ++i) {
        encode_block(e.parts[i], in, out);
        out += e.parts[i].outputs * kBlock;
      }
      return;
  }
}

}  // namespace belvedere::BELVEDERE_ISA
