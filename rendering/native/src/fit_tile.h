// One tile of a picture that Gaussians are fitted to: drawn, compared, and the derivatives of the
// error by each splat's colour, place and shape summed up.
//
// Front to back twice. The first pass draws (image model, steps 3 and 4). With w_i = α_i T_i and
// v_i the derivative of the error by w_i, the second one needs
//   dL/dα_i = T_i v_i − (Σ_{j > i} w_j v_j) / (1 − α_i),
// whose sum is what is left of Σ w_j v_j, known from the first pass (Kerbl et al. 2023, appendix;
// taken front to back, nothing has to be divided out of the transmittance).
#pragma once

#include "fit_types.h"
#include "image_model.h"
#include "simd.h"

namespace belvedere::BELVEDERE_ISA {

constexpr int kFitBlockRows = kLanes / 4;  // a vector is a block of 4 pixels by these
constexpr int kFitColumns = kFitTile / 4, kFitRows = kFitTile / kFitBlockRows;
constexpr int kFitBlocks = kFitColumns * kFitRows;

struct FitPixels {
  alignas(64) float t[kFitBlocks][kLanes];
  alignas(64) float color[3][kFitBlocks][kLanes];
  // Of the second pass: derivatives by the colour, what every weight adds besides, what is left
  // of Σ w v, and the squared error.
  alignas(64) float by_color[3][kFitBlocks][kLanes];
  alignas(64) float by_alpha[kFitBlocks][kLanes];
  alignas(64) float left[kFitBlocks][kLanes];
  alignas(64) float error[kFitBlocks][kLanes];
};

BELVEDERE_INLINE VF fit_x() {
  VF v;
  for (int i = 0; i < kLanes; ++i) v[i] = 0.5f + static_cast<float>(i % 4);
  return v;
}
BELVEDERE_INLINE VF fit_y() {
  VF v;
  for (int i = 0; i < kLanes; ++i) v[i] = 0.5f + static_cast<float>(i / 4);
  return v;
}

// The blocks that a splat's box touches: columns and rows, last ones included.
struct FitSpan {
  int x0, x1, y0, y1;
};
inline FitSpan fit_span(const FitSplat& s, int tile_x, int tile_y) {
  const float x = s.x - static_cast<float>(tile_x), y = s.y - static_cast<float>(tile_y);
  constexpr float most = kFitTile - 1.0f;
  const auto clip = [](float v) { return v < 0.0f ? 0.0f : v > most ? most : v; };
  return {static_cast<int>(clip(x - s.extent_x - 0.5f)) / 4,
          static_cast<int>(clip(x + s.extent_x)) / 4,
          static_cast<int>(clip(y - s.extent_y - 0.5f)) / kFitBlockRows,
          static_cast<int>(clip(y + s.extent_y)) / kFitBlockRows};
}

// Alpha of a splat in one vector of pixels; `free` where it is not held at its largest.
struct FitAlpha {
  VF dx, dy, alpha;
  Mask free;
};
BELVEDERE_INLINE FitAlpha fit_alpha(const FitSplat& s, VF px, VF py, int column, int row) {
  FitAlpha out;
  out.dx = px + (static_cast<float>(4 * column) - s.x);
  out.dy = py + (static_cast<float>(kFitBlockRows * row) - s.y);
  const VF across = fma(splat(s.a), out.dx, 2.0f * s.b * out.dy);
  const VF power = splat(s.log2_opacity) - fma(across, out.dx, s.c * out.dy * out.dy);
  const Mask visible = greater_equal(power, splat(kLog2AlphaCut));
  const VF alpha = exp2(power);
  out.free = both(visible, greater(splat(kAlphaMax), alpha));
  out.alpha = keep(visible, min(alpha, splat(kAlphaMax)));
  return out;
}

// Draws; returns how many of the items were needed.
inline std::size_t fit_forward(const FitTile& tile, FitPixels& pixels) {
  const VF px = fit_x() + static_cast<float>(tile.x), py = fit_y() + static_cast<float>(tile.y);
  const VF stop = splat(kTransmittanceStop);
  for (std::size_t i = 0; i < tile.count; ++i) {
    if (i % 32 == 31) {
      bool alive = false;
      for (int b = 0; b < kFitBlocks && !alive; ++b) alive = any(greater(load(pixels.t[b]), stop));
      if (!alive) return i;
    }
    const FitSplat& s = tile.splats[tile.items[i].splat];
    const FitSpan span = fit_span(s, tile.x, tile.y);
    for (int row = span.y0; row <= span.y1; ++row) {
      for (int column = span.x0; column <= span.x1; ++column) {
        const int b = row * kFitColumns + column;
        const VF t = load(pixels.t[b]);
        const Mask live = greater(t, stop);
        if (!any(live)) continue;
        const FitAlpha at = fit_alpha(s, px, py, column, row);
        const VF weight = keep(live, at.alpha * t);
        store(pixels.t[b], t - weight);
        for (int c = 0; c < 3; ++c) {
          store(pixels.color[c][b], fma(weight, splat(s.color[c]), load(pixels.color[c][b])));
        }
      }
    }
  }
  return tile.count;
}

// Compares with the target; what is outside of the image has no error.
inline void fit_compare(FitTile& tile, FitPixels& pixels) {
  const FitTarget& target = tile.target;
  const float inverse = 1.0f / target.robust;
  double total = 0;
  for (int b = 0; b < kFitBlocks; ++b) {
    for (int i = 0; i < kLanes; ++i) {
      const int x = tile.x + 4 * (b % kFitColumns) + i % 4;
      const int y = tile.y + kFitBlockRows * (b / kFitColumns) + i / 4;
      float by[3] = {}, by_alpha = 0, left = 0, error = 0;
      if (x < tile.width && y < tile.height) {
        const std::size_t at = 4 * (static_cast<std::size_t>(y) * tile.width + x);
        const std::uint8_t* wanted = target.pixels + at;
        const float t = pixels.t[b][i], wanted_t = 1.0f - wanted[3] / 255.0f;
        const auto damped = [&](float e) {
          return e / __builtin_sqrtf(1.0f + e * e * inverse * inverse);
        };
        by_alpha = target.alpha_weight * damped(wanted_t - t);
        for (int c = 0; c < 3; ++c) {
          const float bg = target.background[c], color = pixels.color[c][b][i];
          const float e = color + t * bg - (wanted[c] / 255.0f + wanted_t * bg);
          error += e * e;
          by[c] = damped(e);
          by_alpha -= by[c] * bg;
          left += by[c] * color;
          if (tile.image) tile.image[at + c] = color + t * bg;
        }
        if (tile.image) tile.image[at + 3] = 1.0f - t;
        left += by_alpha * (1.0f - t);
        total += error;
      }
      for (int c = 0; c < 3; ++c) pixels.by_color[c][b][i] = by[c];
      pixels.by_alpha[b][i] = by_alpha;
      pixels.left[b][i] = left;
      pixels.error[b][i] = error;
    }
  }
  tile.squared_error = total;
}

BELVEDERE_INLINE float sum_of(VF v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int half = kLanes / 2; half; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

inline void fit_backward(const FitTile& tile, std::size_t used, FitPixels& pixels) {
  const VF px = fit_x() + static_cast<float>(tile.x), py = fit_y() + static_cast<float>(tile.y);
  const VF stop = splat(kTransmittanceStop);
  for (std::size_t i = 0; i < used; ++i) {
    const FitSplat& s = tile.splats[tile.items[i].splat];
    const FitSpan span = fit_span(s, tile.x, tile.y);
    VF sums[kFitSums] = {};
    for (int row = span.y0; row <= span.y1; ++row) {
      for (int column = span.x0; column <= span.x1; ++column) {
        const int b = row * kFitColumns + column;
        const VF t = load(pixels.t[b]);
        const Mask live = greater(t, stop);
        if (!any(live)) continue;
        const FitAlpha at = fit_alpha(s, px, py, column, row);
        const VF weight = keep(live, at.alpha * t);
        VF value = load(pixels.by_alpha[b]);
        for (int c = 0; c < 3; ++c) {
          const VF by = load(pixels.by_color[c][b]);
          value = fma(by, splat(s.color[c]), value);
          sums[kSumRed + c] = fma(weight, by, sums[kSumRed + c]);
        }
        const VF left = load(pixels.left[b]) - weight * value;
        const VF by_alpha = fma(t, value, -left / (1.0f - at.alpha));
        const VF q = keep(both(live, at.free), at.alpha * by_alpha);
        const VF qx = q * at.dx, qy = q * at.dy;
        store(pixels.t[b], t - weight);
        store(pixels.left[b], left);
        sums[kSumQ] += q;
        sums[kSumX] += qx;
        sums[kSumY] += qy;
        sums[kSumXx] = fma(qx, at.dx, sums[kSumXx]);
        sums[kSumXy] = fma(qx, at.dy, sums[kSumXy]);
        sums[kSumYy] = fma(qy, at.dy, sums[kSumYy]);
        sums[kSumWeight] += weight;
        sums[kSumError] = fma(weight, load(pixels.error[b]), sums[kSumError]);
      }
    }
    FitPair& pair = tile.pairs[tile.items[i].pair];
    for (int k = 0; k < kFitSums; ++k) pair.sum[k] = sum_of(sums[k]);
  }
  for (std::size_t i = used; i < tile.count; ++i) tile.pairs[tile.items[i].pair] = {};
}

// Pixels outside of the image are opaque from the start, so that they take nothing.
inline void fit_open(const FitTile& tile, FitPixels& pixels) {
  for (int b = 0; b < kFitBlocks; ++b) {
    for (int i = 0; i < kLanes; ++i) {
      const int x = tile.x + 4 * (b % kFitColumns) + i % 4;
      const int y = tile.y + kFitBlockRows * (b / kFitColumns) + i / 4;
      pixels.t[b][i] = x < tile.width && y < tile.height ? 1.0f : 0.0f;
    }
  }
}

inline void fit_tile(FitTile& tile) {
  FitPixels pixels;
  std::memset(pixels.color, 0, sizeof pixels.color);
  fit_open(tile, pixels);
  const std::size_t used = fit_forward(tile, pixels);
  fit_compare(tile, pixels);
  if (!tile.pairs) return;  // the error alone is wanted
  fit_open(tile, pixels);
  fit_backward(tile, used, pixels);
}

}  // namespace belvedere::BELVEDERE_ISA
