// Vectors of floats, in GCC/Clang's generic vector types; intrinsics only where those
// cannot say it (fused multiply-add, mask registers, compressing stores).
//
// Included inside namespace BELVEDERE_ISA of kernels.cpp, which is compiled once for each
// instruction set; nothing here may be used from files compiled without it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace belvedere::BELVEDERE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

#define BELVEDERE_INLINE inline __attribute__((always_inline))

typedef float VF __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t VI __attribute__((vector_size(kLanes * 4)));
typedef std::int16_t VH __attribute__((vector_size(kLanes * 2)));
typedef std::uint8_t VB __attribute__((vector_size(kLanes)));
typedef double VD __attribute__((vector_size(kLanes * 8)));

BELVEDERE_INLINE VF splat(float v) { return v - VF{}; }
BELVEDERE_INLINE VI splat_int(std::int32_t v) { return v - VI{}; }
BELVEDERE_INLINE VF load(const float* p) {
  VF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
BELVEDERE_INLINE void store(float* p, VF v) { std::memcpy(p, &v, sizeof v); }
BELVEDERE_INLINE VF to_float(VI v) { return __builtin_convertvector(v, VF); }
BELVEDERE_INLINE VI truncate(VF v) { return __builtin_convertvector(v, VI); }

BELVEDERE_INLINE VI lane_numbers() {
  VI v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

BELVEDERE_INLINE VF fma(VF a, VF b, VF c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON) && defined(__aarch64__)
  float32x4_t lo, hi, out_lo, out_hi, b_lo, b_hi;
  std::memcpy(&lo, &a, 16), std::memcpy(&hi, reinterpret_cast<char*>(&a) + 16, 16);
  std::memcpy(&b_lo, &b, 16), std::memcpy(&b_hi, reinterpret_cast<char*>(&b) + 16, 16);
  std::memcpy(&out_lo, &c, 16), std::memcpy(&out_hi, reinterpret_cast<char*>(&c) + 16, 16);
  out_lo = vfmaq_f32(out_lo, lo, b_lo);
  out_hi = vfmaq_f32(out_hi, hi, b_hi);
  VF out;
  std::memcpy(&out, &out_lo, 16), std::memcpy(reinterpret_cast<char*>(&out) + 16, &out_hi, 16);
  return out;
#else
  return a * b + c;
#endif
}

// The obvious ternaries; compilers turn them into min/max instructions.
BELVEDERE_INLINE VF min(VF a, VF b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
BELVEDERE_INLINE VF max(VF a, VF b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
BELVEDERE_INLINE VF abs(VF v) { return (VF)((VI)v & 0x7fffffff); }
BELVEDERE_INLINE VF clamp(VF v, VF lo, VF hi) { return min(max(v, lo), hi); }

BELVEDERE_INLINE VF sqrt(VF v) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(v);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  VF out;
  for (int i = 0; i < kLanes; ++i) out[i] = std::sqrt(v[i]);
  return out;
#endif
}

BELVEDERE_INLINE VF floor(VF v) {
#if defined(__AVX512F__)
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return _mm256_floor_ps(v);
#else
  VF out;
  for (int i = 0; i < kLanes; ++i) out[i] = std::floor(v[i]);
  return out;
#endif
}

// Masks: one bit a lane in a mask register where there are such, else full lanes.
#if defined(__AVX512F__)
using Mask = __mmask16;
BELVEDERE_INLINE Mask greater_equal(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
BELVEDERE_INLINE Mask greater(VF a, VF b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
BELVEDERE_INLINE Mask both(Mask a, Mask b) { return a & b; }
BELVEDERE_INLINE VF keep(Mask m, VF v) { return _mm512_maskz_mov_ps(m, v); }
BELVEDERE_INLINE VI keep(Mask m, VI v) {
  return (VI)_mm512_maskz_mov_epi32(m, (__m512i)v);
}
BELVEDERE_INLINE VF select(Mask m, VF a, VF b) { return _mm512_mask_mov_ps(b, m, a); }
BELVEDERE_INLINE bool any(Mask m) { return m != 0; }
BELVEDERE_INLINE std::uint32_t bits(Mask m) { return m; }
#else
using Mask = VI;
BELVEDERE_INLINE Mask greater_equal(VF a, VF b) { return a >= b; }
BELVEDERE_INLINE Mask greater(VF a, VF b) { return a > b; }
BELVEDERE_INLINE Mask both(Mask a, Mask b) { return a & b; }
BELVEDERE_INLINE VF keep(Mask m, VF v) { return (VF)(m & (VI)v); }
BELVEDERE_INLINE VI keep(Mask m, VI v) { return m & v; }
BELVEDERE_INLINE VF select(Mask m, VF a, VF b) { return m ? a : b; }
BELVEDERE_INLINE std::uint32_t bits(Mask m) {
#if defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)m));
#else
  std::uint32_t out = 0;
  for (int i = 0; i < kLanes; ++i) out |= static_cast<std::uint32_t>(m[i] & 1) << i;
  return out;
#endif
}
BELVEDERE_INLINE bool any(Mask m) { return bits(m) != 0; }
#endif

// rows[i] holds lane i of all columns; the same function turns rows into columns.
BELVEDERE_INLINE void transpose(const VF (&columns)[kLanes], VF (&rows)[kLanes]) {
#if defined(__AVX512F__)
  VF pairs[16], quads[16], halves[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(columns[i], columns[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(columns[i], columns[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int k = 0; k < 2; ++k) {
      const __m512d a = (__m512d)pairs[i + k], b = (__m512d)pairs[i + k + 2];
      quads[i + 2 * k] = (VF)_mm512_unpacklo_pd(a, b);
      quads[i + 2 * k + 1] = (VF)_mm512_unpackhi_pd(a, b);
    }
  }
  // quads[4 j + k] holds, in 128-bit lane q, row 4 q + k of columns 4 j .. 4 j + 3.
  for (int k = 0; k < 4; ++k) {
    halves[k] = _mm512_shuffle_f32x4(quads[k], quads[4 + k], 0x88);
    halves[4 + k] = _mm512_shuffle_f32x4(quads[k], quads[4 + k], 0xdd);
    halves[8 + k] = _mm512_shuffle_f32x4(quads[8 + k], quads[12 + k], 0x88);
    halves[12 + k] = _mm512_shuffle_f32x4(quads[8 + k], quads[12 + k], 0xdd);
  }
  for (int k = 0; k < 4; ++k) {
    rows[k] = _mm512_shuffle_f32x4(halves[k], halves[8 + k], 0x88);
    rows[8 + k] = _mm512_shuffle_f32x4(halves[k], halves[8 + k], 0xdd);
    rows[4 + k] = _mm512_shuffle_f32x4(halves[4 + k], halves[12 + k], 0x88);
    rows[12 + k] = _mm512_shuffle_f32x4(halves[4 + k], halves[12 + k], 0xdd);
  }
#elif defined(__AVX2__)
  VF pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(columns[i], columns[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(columns[i], columns[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      const __m256d a = (__m256d)pairs[i + k], b = (__m256d)pairs[i + k + 2];
      quads[i + 2 * k] = (VF)_mm256_unpacklo_pd(a, b);
      quads[i + 2 * k + 1] = (VF)_mm256_unpackhi_pd(a, b);
    }
  }
  for (int k = 0; k < 4; ++k) {
    rows[k] = _mm256_permute2f128_ps(quads[k], quads[4 + k], 0x20);
    rows[4 + k] = _mm256_permute2f128_ps(quads[k], quads[4 + k], 0x31);
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    for (int k = 0; k < kLanes; ++k) rows[i][k] = columns[k][i];
  }
#endif
}

// 2^x for x in [-126, 1], relative error below 3e-6: 2^round(x) by the exponent bits times
// a polynomial (near-minimax) on [-0.5, 0.5]. Other x give garbage,
// never a trap.
BELVEDERE_INLINE VF exp2(VF x) {
  const VF magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const VF shifted = x + magic;
  const VF f = x - (shifted - magic);
  VF p = fma(f, splat(9.58284786e-3f), splat(5.59064326e-2f));
  p = fma(f, p, splat(2.40240988e-1f));
  p = fma(f, p, splat(6.93124192e-1f));
  p = fma(f, p, splat(1.0f));
  typedef std::uint32_t VU __attribute__((vector_size(kLanes * 4)));
  return (VF)((VU)p + ((VU)shifted << 23));
}

// log2(x) for normal positive x, absolute error below 2e-6: exponent plus
// 2/ln2 · atanh((m − 1)/(m + 1)) for the mantissa m in [sqrt(½), sqrt(2)).
BELVEDERE_INLINE VF log2(VF x) {
  const VI raw = (VI)x - 0x3f3504f3;
  const VF exponent = to_float(raw >> 23);
  const VF m = (VF)((raw & 0x007fffff) + 0x3f3504f3);
  const VF t = (m - 1.0f) / (m + 1.0f);
  const VF t2 = t * t;
  VF p = fma(t2, splat(2.0f / 7 * 1.44269504f), splat(2.0f / 5 * 1.44269504f));
  p = fma(t2, p, splat(2.0f / 3 * 1.44269504f));
  p = fma(t2, p, splat(2.0f * 1.44269504f));
  return fma(t, p, exponent);
}

}  // namespace belvedere::BELVEDERE_ISA
