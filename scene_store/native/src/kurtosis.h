// How a mixture of Gaussians is spread, compared with one Gaussian of the same moments.
#pragma once

#include <algorithm>
#include <cmath>

#include "merge.h"

namespace belvedere::store {

// Mardia's kurtosis E (dᵀ A d)², A = Σ⁻¹, of a distribution of covariance Σ about its mean
// ("Measures of multivariate skewness and kurtosis with applications", 1970). Σ is widened a
// little before it is inverted, because it may be flat.
class Kurtosis {
 public:
  explicit Kurtosis(const Covariance& c) {
    const double trace = std::max(c.trace(), kTiny);
    const double e = kFlat * trace;
    unit_ = 1 / trace;  // so that no determinant leaves the range of numbers
    const double xx = (c.xx + e) * unit_, yy = (c.yy + e) * unit_, zz = (c.zz + e) * unit_;
    const double xy = c.xy * unit_, xz = c.xz * unit_, yz = c.yz * unit_;
    const double a = yy * zz - yz * yz, b = xz * yz - xy * zz, d = xy * yz - xz * yy;
    const double inverse = 1 / std::max(xx * a + xy * b + xz * d, kTiny);
    inverse_ = {a * inverse,
                b * inverse,
                d * inverse,
                (xx * zz - xz * xz) * inverse,
                (xy * xz - xx * yz) * inverse,
                (xx * yy - xy * xy) * inverse};
    const double centre[3] = {0, 0, 0};
    of_gaussian_ = std::max(part(c, centre), kTiny);
  }

  // What a member of covariance S at d from the mean adds, per weight: with P = A S and u = A d,
  // E (xᵀ A x)² for x ~ N(d, S) is (tr P + dᵀu)² + 2 tr P² + 4 uᵀ S u.
  double part(const Covariance& s, const double* d) const {
    const Covariance& m = inverse_;
    const double a[3][3] = {{m.xx, m.xy, m.xz}, {m.xy, m.yy, m.yz}, {m.xz, m.yz, m.zz}};
    const double b[3][3] = {{s.xx * unit_, s.xy * unit_, s.xz * unit_},
                            {s.xy * unit_, s.yy * unit_, s.yz * unit_},
                            {s.xz * unit_, s.yz * unit_, s.zz * unit_}};
    double p[3][3], u[3];
    for (int i = 0; i < 3; ++i) {
      for (int k = 0; k < 3; ++k) {
        p[i][k] = a[i][0] * b[0][k] + a[i][1] * b[1][k] + a[i][2] * b[2][k];
      }
      u[i] = (a[i][0] * d[0] + a[i][1] * d[1] + a[i][2] * d[2]) * unit_;
    }
    double trace = 0, trace_of_square = 0, distance = 0, along = 0;
    for (int i = 0; i < 3; ++i) {
      trace += p[i][i];
      distance += d[i] * u[i];
      for (int k = 0; k < 3; ++k) {
        trace_of_square += p[i][k] * p[k][i];
        along += u[i] * b[i][k] * u[k] / unit_;
      }
    }
    return (trace + distance) * (trace + distance) + 2 * trace_of_square + 4 * along;
  }

  // That of one Gaussian: p (p + 2) in p dimensions.
  double of_gaussian() const { return of_gaussian_; }

 private:
  static constexpr double kFlat = 1e-4;  // of the trace
  static constexpr double kTiny = 1e-300;
  Covariance inverse_;  // of Σ / tr Σ
  double unit_, of_gaussian_;
};

}  // namespace belvedere::store
