// What a camera sees, as level-of-detail selection asks it of boxes.
//
// Visibility repeats splat/bounds.py term by term, in double and without fused products, so
// that both come to the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace belvedere::store {

// The constants of splat/bounds.py.
inline constexpr double kFisheyeMaxTheta = 145.0 * (3.141592653589793 / 180.0);
inline constexpr double kPositionSlack = 1e-5;
inline constexpr double kAngleSlack = 1e-4;
inline constexpr double kMaxStretchedTheta = 3.0;

// One camera as `pack_views` of lod.py lays it out: doubles only.
struct View {
  double model;  // 0 pinhole, 1 ortho, 2 fisheye
  double position[3];
  double rotation[3][3];
  double near, far, position_slack;
  double planes[6][5];  // normal, offset, reach
  double left, right, top, bottom;
  double rect_radius;
  double focal;
  double inner_cosine, outer_cosine, edge_weight;

  bool ortho() const { return model == 1; }
  bool fisheye() const { return model == 2; }
};
inline constexpr std::size_t kViewDoubles = 55;
static_assert(sizeof(View) == kViewDoubles * sizeof(double));

struct Vector {
  double x, y, z;
};

inline double dot(const double* a, const Vector& b) { return a[0] * b.x + a[1] * b.y + a[2] * b.z; }
inline double absolute_dot(const double* a, const Vector& b) {
  return std::fabs(a[0]) * b.x + std::fabs(a[1]) * b.y + std::fabs(a[2]) * b.z;
}
inline double norm(const Vector& a) { return std::sqrt(a.x * a.x + a.y * a.y + a.z * a.z); }

// A node's box relative to a camera's position, world axes.
struct Box {
  Vector centre, half;

  double distance() const {
    return norm({std::max(std::fabs(centre.x) - half.x, 0.0),
                 std::max(std::fabs(centre.y) - half.y, 0.0),
                 std::max(std::fabs(centre.z) - half.z, 0.0)});
  }
  double farthest() const {
    return norm({std::fabs(centre.x) + half.x, std::fabs(centre.y) + half.y,
                 std::fabs(centre.z) + half.z});
  }
};

inline double stretch(double theta) {
  const double safe = std::max(theta, 1e-6);
  return safe / std::sin(safe);
}

inline bool in_planes(const View& view, const Box& box, double max_scale) {
  const double slack =
      view.position_slack + kPositionSlack * (box.half.x + box.half.y + box.half.z);
  for (const auto& plane : view.planes) {
    const double least = dot(plane, box.centre) - absolute_dot(plane, box.half);
    if (!(least <= plane[3] + plane[4] * max_scale + slack)) return false;
  }
  return true;
}

inline bool in_fisheye(const View& view, const Box& box, double max_scale, double max_sigmas) {
  const double nearest = box.distance(), radius = norm(box.half), distance = norm(box.centre);
  const double slack = view.position_slack + kPositionSlack * radius;
  if (!(nearest <= view.far + slack && box.farthest() >= view.near - slack)) return false;
  if (distance <= radius + slack) return true;
  const double x = dot(view.rotation[0], box.centre), y = dot(view.rotation[1], box.centre);
  const double z = dot(view.rotation[2], box.centre);
  const double across = std::sqrt(x * x + y * y), theta = std::atan2(across, z);
  const double cap = std::asin(std::min(radius / distance, 1.0)) + kAngleSlack;
  const double lowest = theta - cap;
  if (!(lowest <= kFisheyeMaxTheta)) return false;
  const double reach = (max_sigmas * max_scale / std::max(nearest, view.near)) *
                       stretch(std::min(theta + cap, kFisheyeMaxTheta + kAngleSlack));
  if (!(lowest <= view.rect_radius + std::sqrt(2.0) * reach)) return false;
  if (theta + cap > kMaxStretchedTheta) return true;
  const double spread = cap * stretch(std::min(theta + cap, kMaxStretchedTheta)) + reach;
  const double safe_across = across > 0 ? across : 1.0;
  const double qx = theta * x / safe_across, qy = theta * y / safe_across;
  return qx - spread <= view.right && qx + spread >= view.left && qy - spread <= view.bottom &&
         qy + spread >= view.top;
}

// Foveation: the weight at the point of the box's sphere that is nearest to the axis.
inline double weight(const View& view, const Box& box) {
  if (view.edge_weight == 1.0) return 1.0;
  const double distance = norm(box.centre), radius = norm(box.half);
  if (distance <= radius) return 1.0;
  const double cosine =
      std::min(std::max(dot(view.rotation[2], box.centre) / distance, -1.0), 1.0);
  const double sine = std::sqrt(1.0 - cosine * cosine);
  const double cap_sine = radius / distance;
  const double cap_cosine = std::sqrt(1.0 - cap_sine * cap_sine);
  const double nearest =
      cosine >= cap_cosine ? 1.0 : cosine * cap_cosine + sine * cap_sine;
  const double share = std::min(
      std::max((nearest - view.outer_cosine) / (view.inner_cosine - view.outer_cosine), 0.0), 1.0);
  return view.edge_weight + (1.0 - view.edge_weight) * share;
}

}  // namespace belvedere::store
