// Multiresolution hash grids (Müller et al. 2022) over blocks of samples.
//
// Level by level: where the eight corners of every sample's cell are, then what they hold. Reads
// of hundreds of corners follow each other without waiting for one another, which hides what a
// cache misses as well as asking for it ahead does.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include <type_traits>

#include "elementary.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

using neural::EncodingView;
using neural::GridLevelView;
using neural::kBlock;

// Corner c is the far one along axis d if bit d of c is set.
struct Corners {
  alignas(64) std::uint32_t entry[8][kBlock];  // of the table of all levels
  alignas(64) float fraction[3][kBlock];
};

BELVEDERE_INLINE VU splat_unsigned(std::uint32_t v) { return v - VU{}; }

BELVEDERE_INLINE VU wrapped(const GridLevelView& level, VU index) {
  switch (level.wrap) {
    case GridLevelView::Wrap::kMask:
      return index & (level.entries - 1);
    case GridLevelView::Wrap::kOnce: {
      const VU entries = splat_unsigned(level.entries);
      return index >= entries ? index - entries : index;
    }
    case GridLevelView::Wrap::kModulo:
      for (int i = 0; i < kLanes; ++i) index[i] %= level.entries;
      return index;
  }
  return VU{};
}

// Positions outside [0, 1] are taken to its border, and what is no number to 0: every entry
// lies in the table whatever comes.
inline void locate(const GridLevelView& level, float shift, const float* in, Corners& corners) {
  const std::uint32_t step_y = level.hashed ? 2654435761u : level.resolution;
  const std::uint32_t step_z =
      level.hashed ? 805459861u : level.resolution * level.resolution;
  for (int s = 0; s < kBlock; s += kLanes) {
    VU near[3];
    for (int d = 0; d < 3; ++d) {
      const VF x = min(max(load(in + d * kBlock + s), VF{}), splat(1.0f));
      const VF p = fma(x, splat(level.scale), splat(shift));
      const VF whole = floor(p);
      store(corners.fraction[d] + s, p - whole);
      near[d] = (VU)truncate(whole);
    }
    const VU xs[2] = {near[0], near[0] + 1u};
    const VU y = near[1] * step_y, z = near[2] * step_z;
    const VU ys[2] = {y, y + step_y}, zs[2] = {z, z + step_z};
    for (int c = 0; c < 8; ++c) {
      const VU vx = xs[c & 1], vy = ys[c >> 1 & 1], vz = zs[c >> 2];
      const VU index = level.hashed ? vx ^ vy ^ vz : vx + vy + vz;
      const VU entry = wrapped(level, index) + level.first;
      std::memcpy(corners.entry[c] + s, &entry, sizeof entry);
    }
  }
}

// Two numbers of 16 bits in each lane, the first one in the lower half. Infinities become 65536.
BELVEDERE_INLINE void widen(VU halves, VF& first, VF& second) {
#if defined(__AVX512F__)
  // With a mask of all lanes: GCC 12 warns about those without (GCC PR 105593).
  const auto widened = [](VU v) {
    const __m256i low = _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)v);
    return (VF)_mm512_maskz_cvtph_ps(0xffff, low);
  };
  first = widened(halves);
  second = widened(halves >> 16);
#else
  // The exponent's bias differs by 112; multiplying by 2^112 treats denormals like the rest.
  const VF bias = splat(5.19229686e33f);
  const VU low = halves << 16;
  first = (VF)((VU)((VF)((low & 0x7fff0000u) >> 3) * bias) | (low & 0x80000000u));
  second = (VF)((VU)((VF)((halves & 0x7fff0000u) >> 3) * bias) | (halves & 0x80000000u));
#endif
}

struct CornerWeights {
  VF w[8];
};

BELVEDERE_INLINE CornerWeights corner_weights(const Corners& corners, int s) {
  CornerWeights out;
  const VF x = load(corners.fraction[0] + s), y = load(corners.fraction[1] + s),
           z = load(corners.fraction[2] + s);
  const VF xs[2] = {1.0f - x, x}, ys[2] = {1.0f - y, y}, zs[2] = {1.0f - z, z};
  for (int c = 0; c < 8; ++c) out.w[c] = xs[c & 1] * ys[c >> 1 & 1] * zs[c >> 2];
  return out;
}

// Word `word` of the corners' entries, which have `stride` words each. One by one: processors
// without fast gathers are no slower so, those with them hardly.
template <typename Word>
BELVEDERE_INLINE void read_corners(const Word* table, std::size_t stride, int word,
                                   const Corners& corners,
                                   std::uint32_t (&values)[8][kBlock]) {
  const auto read = [&](auto step) {
    const std::uint32_t* entry = corners.entry[0];
    std::uint32_t* value = values[0];
    for (int i = 0; i < 8 * kBlock; ++i) value[i] = table[entry[i] * step + word];
  };
  if (stride == 1) {
    read(std::integral_constant<std::size_t, 1>{});
  } else {
    read(stride);
  }
}

// The features of a level, trilinear. kFeatures of them come from each word: two halves, or one.
template <int kFeatures, bool kHalf>
BELVEDERE_INLINE void interpolate(const std::uint32_t (&values)[8][kBlock],
                                  const Corners& corners, float* out) {
  for (int s = 0; s < kBlock; s += kLanes) {
    const CornerWeights weights = corner_weights(corners, s);
    VF first{}, second{};
    for (int c = 0; c < 8; ++c) {
      VU v;
      std::memcpy(&v, values[c] + s, sizeof v);
      VF a = (VF)v, b{};
      if constexpr (kHalf) widen(v, a, b);
      first = fma(weights.w[c], a, first);
      if constexpr (kFeatures == 2) second = fma(weights.w[c], b, second);
    }
    store(out + s, first);
    if constexpr (kFeatures == 2) store(out + kBlock + s, second);
  }
}

inline void encode_level(const EncodingView& e, const Corners& corners, float* out) {
  alignas(64) std::uint32_t values[8][kBlock];
  if (!e.half) {
    for (int f = 0; f < e.features; ++f) {
      read_corners(static_cast<const std::uint32_t*>(e.table), e.features, f, corners, values);
      interpolate<1, false>(values, corners, out + f * kBlock);
    }
  } else if (e.features % 2 == 0) {
    for (int f = 0; f < e.features; f += 2) {
      read_corners(static_cast<const std::uint32_t*>(e.table), e.features / 2, f / 2, corners,
                   values);
      interpolate<2, true>(values, corners, out + f * kBlock);
    }
  } else {
    for (int f = 0; f < e.features; ++f) {
      read_corners(static_cast<const std::uint16_t*>(e.table), e.features, f, corners, values);
      interpolate<1, true>(values, corners, out + f * kBlock);
    }
  }
}

inline void encode_hash_grid(const EncodingView& e, const float* in, float* out) {
  Corners corners;
  for (int level = 0; level < e.level_count; ++level, out += e.features * kBlock) {
    locate(e.levels[level], e.shift, in, corners);
    encode_level(e, corners, out);
  }
}

}  // namespace belvedere::BELVEDERE_ISA
