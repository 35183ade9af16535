#include "footprint.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "image_model.h"

namespace belvedere {

bool footprint_of(const ChunkBounds& b, const CameraParams& c, PixelBox& out) {
  if (c.model == CameraModel::kFisheye) return false;
  const bool ortho = c.model == CameraModel::kOrtho;
  constexpr double kEndless = std::numeric_limits<double>::infinity();
  double low[2], high[2], slack = 0;
  for (int k = 0; k < 3; ++k) {
    slack += std::fabs(c.position[k]) + std::fabs(b.lo[k]) + std::fabs(b.hi[k]);
  }
  for (int k = 0; k < 2; ++k) low[k] = kEndless, high[k] = -kEndless;
  slack *= 1e-5;  // of float32 projection
  double nearest = kEndless;
  for (int corner = 0; corner < 8; ++corner) {
    const double p[3] = {corner & 1 ? b.hi[0] : b.lo[0], corner & 2 ? b.hi[1] : b.lo[1],
                         corner & 4 ? b.hi[2] : b.lo[2]};
    double q[3];
    for (int i = 0; i < 3; ++i) {
      q[i] = c.rotation[3 * i] * p[0] + c.rotation[3 * i + 1] * p[1] +
             c.rotation[3 * i + 2] * p[2] + c.translation[i];
    }
    nearest = std::min(nearest, q[2]);
    const double scale = ortho ? 1 : 1 / q[2];
    for (int k = 0; k < 2; ++k) {
      low[k] = std::min(low[k], q[k] * scale), high[k] = std::max(high[k], q[k] * scale);
    }
  }
  nearest -= slack;
  if (!ortho && !(nearest > 0)) return false;
  // As far as the largest Gaussian reaches at the nearest corner, with J linearized as far out
  // as it ever is (camera_lanes in project.h).
  const double inverse = ortho ? 1 : 1 / nearest;
  const auto reach = [&](double f, double tangent, double centre, double size) {
    const double limit = std::max(centre, size - centre) / f + 0.3 * tangent;
    const double stretch = ortho ? 1 : std::sqrt(1 + limit * limit);
    return kMaxSigmas * (f * inverse * stretch * b.max_scale + std::sqrt(kDilationPx2)) +
           f * inverse * slack + 1;
  };
  const double reach_x = reach(c.fx, 0.5 * c.width / c.fx, c.cx, c.width);
  const double reach_y = reach(c.fy, 0.5 * c.height / c.fy, c.cy, c.height);
  const auto pixel = [](double at, int size) {
    return static_cast<int>(std::clamp(at, 0.0, size - 1.0));
  };
  out = {pixel(c.fx * low[0] + c.cx - reach_x, c.width),
         pixel(c.fx * high[0] + c.cx + reach_x, c.width),
         pixel(c.fy * low[1] + c.cy - reach_y, c.height),
         pixel(c.fy * high[1] + c.cy + reach_y, c.height)};
  return true;
}

}  // namespace belvedere
