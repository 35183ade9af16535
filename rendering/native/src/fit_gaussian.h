// From rows of parameters to splats, and back from the derivatives of the error by splats to a
// step of each row (the chain rule by hand: Kerbl et al. 2023, appendix A; gsplat's notes, Ye et
// al. 2023). Directions that colours are seen from count as constant.
#pragma once

#include "fit_types.h"
#include "image_model.h"
#include "simd.h"

namespace belvedere::BELVEDERE_ISA {

constexpr int kFitBases[] = {1, 4, 9, 16};
constexpr int kFitMostWidth = kFitHarmonics + 3 * 16;
constexpr float kFitMostExponent = 80.0f;

inline void fit_basis(const float d[3], int degree, float out[16]) {
  const float x = d[0], y = d[1], z = d[2];
  out[0] = 0.28209479f;
  if (degree < 1) return;
  out[1] = -0.48860251f * y, out[2] = 0.48860251f * z, out[3] = -0.48860251f * x;
  if (degree < 2) return;
  out[4] = 1.09254843f * x * y, out[5] = -1.09254843f * y * z;
  out[6] = 0.31539157f * (2 * z * z - x * x - y * y);
  out[7] = -1.09254843f * x * z, out[8] = 0.54627422f * (x * x - y * y);
  if (degree < 3) return;
  out[9] = -0.59004359f * y * (3 * x * x - y * y), out[10] = 2.89061144f * x * y * z;
  out[11] = -0.45704580f * y * (4 * z * z - x * x - y * y);
  out[12] = 0.37317633f * z * (2 * z * z - 3 * x * x - 3 * y * y);
  out[13] = -0.45704580f * x * (4 * z * z - x * x - y * y);
  out[14] = 1.44530572f * z * (x * x - y * y), out[15] = -0.59004359f * x * (x * x - 3 * y * y);
}

// A Gaussian in a camera's frame, with what its projection and the way back need alike.
struct FitView {
  float p[3];         // of its mean
  float direction[3]; // from the camera, world axes
  float quat[4], norm;
  float r[3][3];      // axes of the Gaussian in its columns
  float scale[3];
  float jx, jy;       // x / z and y / z, within the limits of J
  bool free_x, free_y;  // whether these limits did not matter
  float m[2][3];      // J W
  float q[2][3];      // J W R S
  float xx, xy, yy;   // of the screen covariance, dilated
};

inline void fit_view(const float* row, const CameraParams& cam, FitView& v) {
  float offset[3];
  for (int k = 0; k < 3; ++k) offset[k] = static_cast<float>(double(row[k]) - cam.position[k]);
  float w[3][3];
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) w[i][k] = static_cast<float>(cam.rotation[3 * i + k]);
    v.p[i] = w[i][0] * offset[0] + w[i][1] * offset[1] + w[i][2] * offset[2];
  }
  const float square = offset[0] * offset[0] + offset[1] * offset[1] + offset[2] * offset[2];
  const float inverse = 1.0f / __builtin_sqrtf(square > 1e-30f ? square : 1e-30f);
  for (int k = 0; k < 3; ++k) v.direction[k] = offset[k] * inverse;

  const float* g = row + kFitQuat;
  v.norm = __builtin_sqrtf(g[0] * g[0] + g[1] * g[1] + g[2] * g[2] + g[3] * g[3]);
  for (int k = 0; k < 4; ++k) v.quat[k] = g[k] / v.norm;
  const float a = v.quat[0], b = v.quat[1], c = v.quat[2], d = v.quat[3];
  const float r[3][3] = {{1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)},
                         {2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)},
                         {2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)}};
  std::memcpy(v.r, r, sizeof r);
  for (int k = 0; k < 3; ++k) {
    const float e = row[kFitScale + k];
    v.scale[k] = __builtin_expf(e < kFitMostExponent ? e : kFitMostExponent);
  }

  const float fx = static_cast<float>(cam.fx), fy = static_cast<float>(cam.fy);
  const double tan_x = 0.5 * cam.width / cam.fx, tan_y = 0.5 * cam.height / cam.fy;
  const float right = static_cast<float>((cam.width - cam.cx) / cam.fx + 0.3 * tan_x);
  const float left = static_cast<float>(-cam.cx / cam.fx - 0.3 * tan_x);
  const float bottom = static_cast<float>((cam.height - cam.cy) / cam.fy + 0.3 * tan_y);
  const float top = static_cast<float>(-cam.cy / cam.fy - 0.3 * tan_y);
  const float inv_z = 1.0f / v.p[2], tx = v.p[0] * inv_z, ty = v.p[1] * inv_z;
  v.jx = tx < left ? left : tx > right ? right : tx;
  v.jy = ty < top ? top : ty > bottom ? bottom : ty;
  v.free_x = v.jx == tx, v.free_y = v.jy == ty;
  for (int k = 0; k < 3; ++k) {
    v.m[0][k] = fx * inv_z * (w[0][k] - v.jx * w[2][k]);
    v.m[1][k] = fy * inv_z * (w[1][k] - v.jy * w[2][k]);
  }
  for (int i = 0; i < 2; ++i) {
    for (int k = 0; k < 3; ++k) {
      v.q[i][k] = v.scale[k] * (v.m[i][0] * v.r[0][k] + v.m[i][1] * v.r[1][k] +
                                v.m[i][2] * v.r[2][k]);
    }
  }
  v.xx = v.q[0][0] * v.q[0][0] + v.q[0][1] * v.q[0][1] + v.q[0][2] * v.q[0][2] + kDilationPx2;
  v.xy = v.q[0][0] * v.q[1][0] + v.q[0][1] * v.q[1][1] + v.q[0][2] * v.q[1][2];
  v.yy = v.q[1][0] * v.q[1][0] + v.q[1][1] * v.q[1][1] + v.q[1][2] * v.q[1][2] + kDilationPx2;
}

inline int fit_width(const FitModel& model) { return kFitHarmonics + 3 * model.bases; }

inline std::size_t fit_project(const FitModel& model, const CameraParams& cam, std::size_t first,
                               std::size_t end, FitSplat* out) {
  const int width = fit_width(model);
  const double* w = cam.rotation;
  std::size_t count = 0;
  for (std::size_t i = first; i < end; ++i) {
    const float* row = model.parameters + i * width;
    const float depth = static_cast<float>(w[6] * row[0] + w[7] * row[1] + w[8] * row[2] +
                                           cam.translation[2]);
    if (!(depth >= cam.near && depth <= cam.far)) continue;
    const float opacity = 1.0f / (1.0f + __builtin_expf(-row[kFitOpacity]));
    const float reach = 2.0f * __builtin_logf(255.0f * opacity);
    if (!(reach > 0)) continue;
    FitView v;
    fit_view(row, cam, v);
    const float det = v.xx * v.yy - v.xy * v.xy;
    if (!(det > 0) || !(det < 1e30f)) continue;
    FitSplat& s = out[count];
    s.x = static_cast<float>(cam.fx * (v.p[0] / v.p[2]) + cam.cx);
    s.y = static_cast<float>(cam.fy * (v.p[1] / v.p[2]) + cam.cy);
    s.extent_x = __builtin_sqrtf(reach * v.xx), s.extent_y = __builtin_sqrtf(reach * v.yy);
    if (!(s.x + s.extent_x > 0 && s.x - s.extent_x < cam.width && s.y + s.extent_y > 0 &&
          s.y - s.extent_y < cam.height)) {
      continue;
    }
    const float unit = 0.5f * kLog2E / det;
    s.a = unit * v.yy, s.b = -unit * v.xy, s.c = unit * v.xx;
    s.log2_opacity = __builtin_log2f(opacity);
    float basis[16];
    fit_basis(v.direction, model.degree, basis);
    s.clamped = 0;
    for (int c = 0; c < 3; ++c) {
      float color = 0.5f;
      for (int k = 0; k < kFitBases[model.degree]; ++k) {
        color += basis[k] * row[kFitHarmonics + 3 * k + c];
      }
      s.clamped |= (color < 0 ? 1u : 0u) << c;
      s.color[c] = color > 0 ? color : 0.0f;
    }
    s.depth = depth;
    s.index = static_cast<std::uint32_t>(i);
    ++count;
  }
  return count;
}

// Derivatives of the error by the parameters of a row, of the sums over its splat's pixels.
inline void fit_gradient(const FitModel& model, const CameraParams& cam, const FitSplat& s,
                         const float* row, const float (&sum)[kFitSums], float* by) {
  FitView v;
  fit_view(row, cam, v);
  const float conic_a = v.yy, conic_b = -v.xy, conic_c = v.xx;  // times the determinant
  const float inv_det = 1.0f / (v.xx * v.yy - v.xy * v.xy);
  const float a = conic_a * inv_det, b = conic_b * inv_det, c = conic_c * inv_det;
  const float by_x = a * sum[kSumX] + b * sum[kSumY], by_y = b * sum[kSumX] + c * sum[kSumY];
  // By the covariance: C G C / 2 with the inverse C and the second moments G of q.
  const float gxx = sum[kSumXx], gxy = sum[kSumXy], gyy = sum[kSumYy];
  const float ax = a * gxx + b * gxy, ay = a * gxy + b * gyy;
  const float bx = b * gxx + c * gxy, by_ = b * gxy + c * gyy;
  const float by_xx = 0.5f * (ax * a + ay * b), by_yy = 0.5f * (bx * b + by_ * c);
  const float by_xy = ax * b + ay * c;

  float by_q[2][3], by_m[2][3] = {}, by_r[3][3];
  for (int k = 0; k < 3; ++k) {
    by_q[0][k] = 2 * by_xx * v.q[0][k] + by_xy * v.q[1][k];
    by_q[1][k] = by_xy * v.q[0][k] + 2 * by_yy * v.q[1][k];
    by[kFitScale + k] = by_q[0][k] * v.q[0][k] + by_q[1][k] * v.q[1][k];
    for (int j = 0; j < 3; ++j) {
      by_r[j][k] = v.scale[k] * (by_q[0][k] * v.m[0][j] + by_q[1][k] * v.m[1][j]);
      for (int i = 0; i < 2; ++i) by_m[i][j] += by_q[i][k] * v.scale[k] * v.r[j][k];
    }
  }
  // By the mean in the camera's frame: through its pixel, and through J.
  const float fx = static_cast<float>(cam.fx), fy = static_cast<float>(cam.fy);
  const float inv_z = 1.0f / v.p[2];
  const double* w = cam.rotation;
  float by_jx = 0, by_jy = 0, by_z = 0;
  for (int j = 0; j < 3; ++j) {
    by_jx -= fx * inv_z * static_cast<float>(w[6 + j]) * by_m[0][j];
    by_jy -= fy * inv_z * static_cast<float>(w[6 + j]) * by_m[1][j];
    by_z -= inv_z * (v.m[0][j] * by_m[0][j] + v.m[1][j] * by_m[1][j]);
  }
  const float tx = v.p[0] * inv_z, ty = v.p[1] * inv_z;
  const float by_tx = fx * by_x + (v.free_x ? by_jx : 0.0f);
  const float by_ty = fy * by_y + (v.free_y ? by_jy : 0.0f);
  const float by_p[3] = {by_tx * inv_z, by_ty * inv_z, by_z - inv_z * (by_tx * tx + by_ty * ty)};
  for (int j = 0; j < 3; ++j) {
    by[j] = static_cast<float>(w[j]) * by_p[0] + static_cast<float>(w[3 + j]) * by_p[1] +
            static_cast<float>(w[6 + j]) * by_p[2];
  }
  // By the quaternion, first as if it had length 1, then without what would change its length.
  const float qw = v.quat[0], qx = v.quat[1], qy = v.quat[2], qz = v.quat[3];
  const auto& g = by_r;
  float by_quat[4] = {
      2 * (qx * (g[2][1] - g[1][2]) + qy * (g[0][2] - g[2][0]) + qz * (g[1][0] - g[0][1])),
      2 * (-2 * qx * (g[1][1] + g[2][2]) + qy * (g[1][0] + g[0][1]) + qz * (g[2][0] + g[0][2]) +
           qw * (g[2][1] - g[1][2])),
      2 * (qx * (g[1][0] + g[0][1]) - 2 * qy * (g[0][0] + g[2][2]) + qz * (g[2][1] + g[1][2]) +
           qw * (g[0][2] - g[2][0])),
      2 * (qx * (g[2][0] + g[0][2]) + qy * (g[2][1] + g[1][2]) - 2 * qz * (g[0][0] + g[1][1]) +
           qw * (g[1][0] - g[0][1]))};
  float along = 0;
  for (int k = 0; k < 4; ++k) along += by_quat[k] * v.quat[k];
  for (int k = 0; k < 4; ++k) by[kFitQuat + k] = (by_quat[k] - along * v.quat[k]) / v.norm;

  const float opacity = 1.0f / (1.0f + __builtin_expf(-row[kFitOpacity]));
  by[kFitOpacity] = sum[kSumQ] * (1.0f - opacity);  // q / o · o (1 − o)
  float basis[16];
  fit_basis(v.direction, model.degree, basis);
  for (int k = 0; k < model.bases; ++k) {
    for (int ch = 0; ch < 3; ++ch) {
      const bool used = k < kFitBases[model.degree] && !(s.clamped >> ch & 1);
      by[kFitHarmonics + 3 * k + ch] = used ? basis[k] * sum[kSumRed + ch] : 0.0f;
    }
  }
}

// How far one step of Adam goes, by parameter.
inline void fit_row_rates(const FitModel& model, const FitRates& rates, const float* row,
                          float* rate) {
  const float* e = row + kFitScale;
  const float least = e[0] < e[1] ? e[0] : e[1], most = e[0] < e[1] ? e[1] : e[0];
  const float middle = e[2] < least ? least : e[2] > most ? most : e[2];
  const float size = __builtin_expf(middle < kFitMostExponent ? middle : kFitMostExponent);
  for (int k = 0; k < kFitHarmonics + 3 * model.bases; ++k) {
    rate[k] = k < kFitQuat        ? rates.mean * size
              : k < kFitScale     ? rates.quat
              : k < kFitOpacity   ? rates.scale
              : k < kFitHarmonics ? rates.opacity
              : k < kFitHarmonics + 3 ? rates.color
                                      : rates.harmonics;
  }
}

inline void fit_step(const FitModel& model, const FitRates& rates, const float* by, float* row,
                     float* moments) {
  const int width = fit_width(model);
  float rate[kFitMostWidth];
  fit_row_rates(model, rates, row, rate);
  float* first = moments;
  float* second = moments + width;
  float& steps = moments[2 * width];
  steps += 1;
  const float correct1 = 1.0f / (1.0f - __builtin_powf(rates.beta1, steps));
  const float correct2 = 1.0f / (1.0f - __builtin_powf(rates.beta2, steps));
  for (int k = 0; k < width; ++k) {
    first[k] = rates.beta1 * first[k] + (1 - rates.beta1) * by[k];
    second[k] = rates.beta2 * second[k] + (1 - rates.beta2) * by[k] * by[k];
    row[k] -= rate[k] * (first[k] * correct1) /
              (__builtin_sqrtf(second[k] * correct2) + 1e-15f);
  }
}

inline void fit_update(const FitModel& model, const CameraParams& cam, const FitRates& rates,
                       const FitSplat* splats, const FitPair* pairs, std::size_t first,
                       std::size_t end) {
  const int width = fit_width(model);
  for (std::size_t i = first; i < end; ++i) {
    const FitSplat& s = splats[i];
    float sum[kFitSums] = {};
    for (std::uint32_t p = s.first_pair; p < s.first_pair + s.pairs; ++p) {
      for (int k = 0; k < kFitSums; ++k) sum[k] += pairs[p].sum[k];
    }
    if (!(sum[kSumWeight] > 0)) continue;
    float* row = model.parameters + s.index * static_cast<std::size_t>(width);
    float by[kFitMostWidth];
    fit_gradient(model, cam, s, row, sum, by);
    bool finite = true;
    for (int k = 0; k < width; ++k) finite = finite && by[k] - by[k] == 0;
    if (!finite) continue;
    float* seen = model.seen + s.index * static_cast<std::size_t>(kFitSeen);
    const float* conic = &s.a;
    const float by_x = conic[0] * sum[kSumX] + conic[1] * sum[kSumY];
    const float by_y = conic[1] * sum[kSumX] + conic[2] * sum[kSumY];
    seen[kSeenWeight] += sum[kSumWeight];
    seen[kSeenError] += sum[kSumError];
    seen[kSeenShift] += __builtin_sqrtf(by_x * by_x + by_y * by_y);
    seen[kSeenViews] += 1;
    fit_step(model, rates, by, row, model.moments + s.index * (2 * std::size_t(width) + 1));
  }
}

}  // namespace belvedere::BELVEDERE_ISA
