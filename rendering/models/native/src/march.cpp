#include "march.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arguments.h"

namespace belvedere::neural {
namespace {

constexpr int kMaxCascades = 16;
constexpr double kEnd = kMarchDone - 1;

// Where a ray's steps are, u_(n+1) = u_n + clamp(u_n · cone, min, max), without going through
// them one by one: even steps, then a geometric series, then even steps.
class Steps {
 public:
  Steps(const StepRule& rule, double enter) : rule_(rule) {
    first_ = enter + 0.5 * size(enter);
    if (rule.cone_angle > 0) {
      growth_ = std::log1p(rule.cone_angle);
      grows_ = count((rule.min_step / rule.cone_angle - first_) / rule.min_step);
      grown_from_ = first_ + grows_ * rule.min_step;
      const double end = std::max(rule.max_step / rule.cone_angle, grown_from_);
      stops_ = grows_ + count(std::log(end / grown_from_) / growth_);
      stopped_from_ = grown_from_ * std::exp(growth_ * (stops_ - grows_));
    }
  }

  double size(double u) const {
    return std::min(std::max(u * rule_.cone_angle, rule_.min_step), rule_.max_step);
  }

  double at(double n) const {
    if (n <= grows_) return first_ + n * rule_.min_step;
    if (n <= stops_) return grown_from_ * std::exp(growth_ * (n - grows_));
    return stopped_from_ + (n - stops_) * rule_.max_step;
  }

  // A number such that every step before it lies before u, by a margin far above what rounding
  // does to a position.
  double first_beyond(double u) const {
    double n;
    if (u <= grown_from_) {
      n = (u - first_) / rule_.min_step;
    } else if (u <= stopped_from_) {
      n = grows_ + std::log(u / grown_from_) / growth_;
    } else {
      n = stops_ + (u - stopped_from_) / rule_.max_step;
    }
    return std::ceil(n - 1e-6);
  }

 private:
  static double count(double steps) { return steps > 0 ? std::min(std::ceil(steps), kEnd) : 0; }

  StepRule rule_;
  double first_;
  // Steps grow from step `grows_` on, at `grown_from_`, to step `stops_`.
  double growth_ = 0;
  double grows_ = kEnd, grown_from_ = std::numeric_limits<double>::infinity();
  double stops_ = kEnd, stopped_from_ = std::numeric_limits<double>::infinity();
};

// Between which u a ray is within `half` of the unit cube's centre along all axes.
struct Span {
  double enter, leave;
};

class RayWalk {
 public:
  RayWalk(const Occupancy& occupancy, const MarchRay& ray) : occupancy_(occupancy) {
    double square = 0;
    for (int d = 0; d < 3; ++d) {
      origin_[d] = ray.origin[d];
      square += double(ray.direction[d]) * ray.direction[d];
    }
    scale_ = std::sqrt(square);
    for (int d = 0; d < 3; ++d) direction_[d] = ray.direction[d] / scale_;
    half_ = std::ldexp(1.0, -occupancy.cascades());
    cube_ = span(0.5);
    for (int k = 0; k + 1 < occupancy.cascades(); ++k) enters_[k] = span(std::ldexp(half_, k)).enter;
  }

  bool is_finite() const {
    double sum = scale_;
    for (int d = 0; d < 3; ++d) sum += std::abs(origin_[d]) + std::abs(direction_[d]);
    return std::isfinite(sum) && scale_ > 0;
  }
  double scale() const { return scale_; }
  const Span& cube() const { return cube_; }

  // Whether there is something at u; if not, `beyond` is up to where there is nothing.
  bool occupied(double u, bool skips, double& beyond) const {
    double offset[3], farthest = 0;
    for (int d = 0; d < 3; ++d) {
      offset[d] = origin_[d] + u * direction_[d] - 0.5;
      farthest = std::max(farthest, std::abs(offset[d]));
    }
    beyond = u;
    if (!(farthest <= 0.5)) {
      if (u < cube_.enter) beyond = cube_.enter;
      return false;
    }
    int cascade = 0;
    double half = half_;
    for (; farthest > half; half *= 2) ++cascade;
    const int side = occupancy_.side();
    int cell[3];
    for (int d = 0; d < 3; ++d) {
      const double place = (offset[d] / (2 * half) + 0.5) * side;
      cell[d] = std::clamp(static_cast<int>(place), 0, side - 1);
    }
    if (occupancy_.any(cascade, 0, cell[0], cell[1], cell[2])) return true;
    if (!skips) return false;
    int level = 0;
    while (level + 1 < occupancy_.level_count() &&
           !occupancy_.any(cascade, level + 1, cell[0], cell[1], cell[2])) {
      ++level;
    }
    beyond = leaves_block(cell, level, 2 * half / side, half);
    // A finer cascade within may have something where this one has nothing.
    if (cascade > 0 && enters_[cascade - 1] > u) beyond = std::min(beyond, enters_[cascade - 1]);
    return false;
  }

 private:
  Span span(double half) const {
    Span out{-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    for (int d = 0; d < 3; ++d) {
      const double offset = origin_[d] - 0.5;
      if (direction_[d] == 0) {
        if (!(std::abs(offset) <= half)) out.enter = std::numeric_limits<double>::infinity();
        continue;
      }
      const double a = (-half - offset) / direction_[d], b = (half - offset) / direction_[d];
      out.enter = std::max(out.enter, std::min(a, b));
      out.leave = std::min(out.leave, std::max(a, b));
    }
    return out;
  }

  double leaves_block(const int (&cell)[3], int level, double cell_size, double half) const {
    double leave = std::numeric_limits<double>::infinity();
    for (int d = 0; d < 3; ++d) {
      if (direction_[d] == 0) continue;
      const int block = (cell[d] >> level) + (direction_[d] > 0);
      const double face = block * std::ldexp(cell_size, level) - half;
      leave = std::min(leave, (face - (origin_[d] - 0.5)) / direction_[d]);
    }
    return leave;
  }

  const Occupancy& occupancy_;
  double origin_[3], direction_[3];
  double scale_, half_;  // half: of the finest cascade's side
  Span cube_;
  double enters_[kMaxCascades];  // of each cascade but the last, where the ray enters its cube
};

}  // namespace

Occupancy::Occupancy(const bool* cells, int cascades, int side)
    : cascades_(cascades), side_(side), level_count_(1) {
  require(cascades > 0 && cascades <= kMaxCascades, "there are 1 to 16 cascades");
  require(side > 0 && side <= 1024, "a cascade has 1 to 1024 cells a side");
  while ((side - 1) >> (level_count_ - 1)) ++level_count_;
  std::size_t words = 0;
  for (int k = 0; k < cascades; ++k) {
    for (int level = 0; level < level_count_; ++level) {
      const int blocks = ((side - 1) >> level) + 1;
      levels_.push_back({words, blocks});
      words += (static_cast<std::size_t>(blocks) * blocks * blocks + 63) / 64;
    }
  }
  words_.resize(words);
  for (int k = 0; k < cascades; ++k) {
    for (int z = 0; z < side; ++z) {
      for (int y = 0; y < side; ++y) {
        for (int x = 0; x < side; ++x) {
          if (!*cells++) continue;
          for (int level = 0; level < level_count_; ++level) {
            const Level& l = levels_[static_cast<std::size_t>(k) * level_count_ + level];
            const std::size_t bit =
                (static_cast<std::size_t>(z >> level) * l.side + (y >> level)) * l.side +
                (x >> level);
            words_[l.first_word + bit / 64] |= std::uint64_t{1} << (bit % 64);
          }
        }
      }
    }
  }
}

int march_ray(const Occupancy& occupancy, const StepRule& rule, const MarchRay& ray, bool skips,
              int most, std::int32_t& cursor, float* t, float* length) {
  if (cursor < 0 || cursor == kMarchDone) return 0;
  const RayWalk walk(occupancy, ray);
  const bool is_ray = walk.is_finite() && std::isfinite(ray.enter) && ray.first < ray.last;
  const double start = double(ray.enter) * walk.scale();
  // Steps and rays that are wanted end behind the cube, in any case.
  if (!is_ray || !(walk.cube().enter <= walk.cube().leave) || !(start <= walk.cube().leave)) {
    cursor = kMarchDone;
    return 0;
  }
  const Steps steps(rule, start);
  double n = cursor;
  if (ray.first > ray.enter) {
    n = std::max(n, steps.first_beyond(double(ray.first) * walk.scale()) - 1);
  }
  const double end = walk.cube().leave * (1 + 1e-9) + 1e-9;
  int found = 0;
  while (found < most) {
    const double u = steps.at(n);
    const float place = static_cast<float>(u / walk.scale());
    if (!(u <= end) || !(place < ray.last) || !(n < kEnd)) {
      cursor = kMarchDone;
      return found;
    }
    double beyond;
    if (walk.occupied(u, skips, beyond)) {
      if (place >= ray.first) {
        t[found] = place;
        length[found] = static_cast<float>(steps.size(u) / walk.scale());
        ++found;
      }
      n += 1;
    } else {
      n = std::max(n + 1, beyond > u ? steps.first_beyond(std::min(beyond, end + 1)) : 0.0);
    }
  }
  cursor = n < kEnd ? static_cast<std::int32_t>(n) : kMarchDone;
  return found;
}

}  // namespace belvedere::neural
