// Elementary functions of vectors of floats, accurate to a few units in the last place: what
// activations are made of. Arguments that are not numbers give some number, never a trap.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "simd.h"

namespace belvedere::BELVEDERE_ISA {

typedef std::uint32_t VU __attribute__((vector_size(kLanes * 4)));

// e^x; relative error below 1e-7 within ±87, beyond that as if it were at the end.
// Cody and Waite 1980: x = n ln 2 + r, |r| ≤ ½ ln 2, and a polynomial in r.
BELVEDERE_INLINE VF exp(VF x) {
  x = clamp(x, splat(-87.0f), splat(87.0f));
  const VF magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const VF shifted = fma(x, splat(1.44269504f), magic);
  const VF n = shifted - magic;
  VF r = fma(n, splat(-0.693359375f), x);  // few enough bits that n times it is exact
  r = fma(n, splat(2.12194440e-4f), r);
  VF p = fma(r, splat(1.9875691500e-4f), splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  return (VF)((VU)p + ((VU)shifted << 23));
}

// 1 / (1 + e^-x); relative error below 2e-7 within ±87.
BELVEDERE_INLINE VF sigmoid(VF x) { return 1.0f / (1.0f + exp(-x)); }

// Relative error below 2e-7. What is no number gives -1, whatever its sign, on which processors do
// not agree; nothing below -10 gives anything else.
BELVEDERE_INLINE VF tanh(VF x) {
  x = max(x, splat(-10.0f));
  const VF size = abs(x);
  const VF e = exp(size * -2.0f);
  const VF far = (1.0f - e) / (1.0f + e);
  // Near 0 that difference has few digits left: a polynomial instead.
  const VF x2 = x * x;
  VF p = fma(x2, splat(-5.70498872745e-3f), splat(2.06390887954e-2f));
  p = fma(p, x2, splat(-5.37397155531e-2f));
  p = fma(p, x2, splat(1.33314422036e-1f));
  p = fma(p, x2, splat(-3.33332819422e-1f));
  const VF near = fma(p * x2, x, x);
  const VF signed_far = (VF)((VI)far | ((VI)x & splat_int(static_cast<std::int32_t>(0x80000000u))));
  return select(greater(splat(0.625f), size), near, signed_far);
}

// ln(1 + u) for u in [0, 1]; relative error below 2e-7.
BELVEDERE_INLINE VF log1p_unit(VF u) {
  const VF y = 1.0f + u;
  const VF lost = (u - (y - 1.0f)) / y;  // what the sum's rounding took away
  const VI raw = (VI)y - 0x3f3504f3;     // mantissas in [√½, √2)
  const VF exponent = to_float(raw >> 23);
  const VF m = (VF)((raw & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const VF m2 = m * m;
  VF p = fma(m, splat(7.0376836292e-2f), splat(-1.1514610310e-1f));
  p = fma(p, m, splat(1.1676998740e-1f));
  p = fma(p, m, splat(-1.2420140846e-1f));
  p = fma(p, m, splat(1.4249322787e-1f));
  p = fma(p, m, splat(-1.6668057665e-1f));
  p = fma(p, m, splat(2.0000714765e-1f));
  p = fma(p, m, splat(-2.4999993993e-1f));
  p = fma(p, m, splat(3.3333331174e-1f));
  p = p * m * m2;
  p = fma(exponent, splat(-2.12194440e-4f), p);
  p = fma(m2, splat(-0.5f), p);
  return fma(exponent, splat(0.693359375f), m + (p + lost));
}

// ln(1 + e^x); relative error below 2e-7 down to x = -87.
BELVEDERE_INLINE VF softplus(VF x) {
  return max(x, VF{}) + log1p_unit(exp(-abs(x)));
}

// 1 − e^-x for x ≥ 0 (else 0); relative error below 3e-7.
BELVEDERE_INLINE VF opacity(VF x) {
  x = max(x, VF{});
  const VF far = 1.0f - exp(-x);
  VF p = fma(x, splat(1.0f / 5040), splat(-1.0f / 720));  // Taylor's series, below ½
  p = fma(p, x, splat(1.0f / 120));
  p = fma(p, x, splat(-1.0f / 24));
  p = fma(p, x, splat(1.0f / 6));
  p = fma(p, x, splat(-0.5f));
  const VF near = fma(p * x, x, x);
  return select(greater(splat(0.5f), x), near, far);
}

// Sine and cosine of `turns` quarter turns, in double precision until the whole turns are gone:
// absolute error below 2e-7 for up to 2^30 quarter turns. More, or what is no number, is taken
// for that many.
BELVEDERE_INLINE void sine_cosine(VD turns, VF& sine, VF& cosine) {
  const VD most = 1073741824.0 - VD{};
  turns = turns >= -most ? turns : -most;
  turns = turns <= most ? turns : most;
  const VD magic = 6755399441055744.0 - VD{};  // 1.5 · 2^52: adding it rounds to an integer
  const VD whole = (turns + magic) - magic;
  const VF a = __builtin_convertvector(turns - whole, VF) * 1.57079633f;  // within ±π/4
  const VI quadrant = __builtin_convertvector(whole, VI);
  const VF a2 = a * a;
  VF p = fma(a2, splat(-1.9515295891e-4f), splat(8.3321608736e-3f));
  p = fma(p, a2, splat(-1.6666654611e-1f));
  const VF s = fma(p * a2, a, a);
  p = fma(a2, splat(2.443315711809948e-5f), splat(-1.388731625493765e-3f));
  p = fma(p, a2, splat(4.166664568298827e-2f));
  const VF c = fma(p * a2, a2, fma(a2, splat(-0.5f), splat(1.0f)));
  const VI odd = (quadrant & 1) != 0;
  const VI sign_bit = splat_int(static_cast<std::int32_t>(0x80000000u));
  const VI sine_sign = ((quadrant & 2) != 0) & sign_bit;
  const VI cosine_sign = (((quadrant + 1) & 2) != 0) & sign_bit;
  sine = (VF)((odd ? (VI)c : (VI)s) ^ sine_sign);
  cosine = (VF)((odd ? (VI)s : (VI)c) ^ cosine_sign);
}

}  // namespace belvedere::BELVEDERE_ISA
