// Which part of a row band an ellipse covers: one formula for tiles and blocks.
//
// With the 2D covariance [[sxx, sxy], [sxy, syy]] and K = 2 ln(255 · opacity), the pixels
// whose alpha reaches the cut satisfy, at height dy below the centre,
//   | dx − shear · dy | <= spread · sqrt(extent_y² − dy²),
//   shear = sxy / syy = −wxy / wxx, spread = sqrt(det) / syy = wyy / wxx,
//   extent_y = sqrt(K syy).
// The right edge is concave in dy with its maximum at dy_rightmost = extent_y · sxy /
// sqrt(sxx syy) = extent_y · shear · extent_y / extent_x, so over a band it is largest at
// dy_rightmost clamped to the band; the left edge mirrors it. Products are arranged so that
// they overflow, if at all, to an infinite span: too large is slow, too small is wrong.
#pragma once

#include "types.h"

// Internal linkage, and no std templates: each instruction set must keep its own copy.
namespace belvedere {
namespace {

struct Span {
  float left, right;  // pixels from the image's left edge
  bool empty;
};

inline float larger(float a, float b) { return a > b ? a : b; }
inline float smaller(float a, float b) { return a < b ? a : b; }

// Absolute x-range, within pixel-centre rows [y_first, y_last], of the ellipse wherever its
// centre's x is from left_x to right_x.
inline Span span_of_band(const Splat& s, float left_x, float right_x, float y_first,
                         float y_last) {
  const float lo = larger(y_first - s.y, -s.extent_y);
  const float hi = smaller(y_last - s.y, s.extent_y);
  if (lo > hi) return {0, 0, true};
  const float inverse = 1.0f / s.wxx;
  const float shear = -s.wxy * inverse, spread = s.wyy * inverse;
  const float rightmost = shear * (s.extent_y / s.extent_x) * s.extent_y;
  const float at_right = smaller(larger(rightmost, lo), hi);
  const float at_left = smaller(larger(-rightmost, lo), hi);
  const auto half_width = [&](float dy) {
    const float square = (s.extent_y - dy) * (s.extent_y + dy);
    return spread * __builtin_sqrtf(larger(0.0f, square));
  };
  const float right = right_x + shear * at_right + half_width(at_right);
  const float left = left_x + shear * at_left - half_width(at_left);
  return {left, right, false};
}

}  // namespace
}  // namespace belvedere
