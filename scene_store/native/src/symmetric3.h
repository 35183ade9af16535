// Axes of a symmetric 3 × 3 matrix as a rotation.
#pragma once

#include <cmath>

#include "merge.h"

namespace belvedere::store {

struct Axes {
  double variances[3];  // along the rotated axes, any order
  double quat[4];       // wxyz, unit length
};

// Cyclic Jacobi rotations (Golub and Van Loan, "Matrix Computations", 8.5): as exact for flat
// and needle-like covariances as for round ones.
inline Axes principal_axes(const Covariance& c) {
  double a[3][3] = {{c.xx, c.xy, c.xz}, {c.xy, c.yy, c.yz}, {c.xz, c.yz, c.zz}};
  double v[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
  for (int sweep = 0; sweep < 16; ++sweep) {
    const double off = a[0][1] * a[0][1] + a[0][2] * a[0][2] + a[1][2] * a[1][2];
    const double on = a[0][0] * a[0][0] + a[1][1] * a[1][1] + a[2][2] * a[2][2];
    if (!(off > 1e-32 * on)) break;
    for (int p = 0; p < 2; ++p) {
      for (int q = p + 1; q < 3; ++q) {
        if (a[p][q] == 0) continue;
        const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::hypot(theta, 1.0));
        const double cosine = 1 / std::sqrt(t * t + 1), sine = t * cosine;
        for (auto& row : a) {
          const double at_p = row[p], at_q = row[q];
          row[p] = cosine * at_p - sine * at_q;
          row[q] = sine * at_p + cosine * at_q;
        }
        for (int k = 0; k < 3; ++k) {
          const double at_p = a[p][k], at_q = a[q][k];
          a[p][k] = cosine * at_p - sine * at_q;
          a[q][k] = sine * at_p + cosine * at_q;
        }
        for (auto& row : v) {
          const double at_p = row[p], at_q = row[q];
          row[p] = cosine * at_p - sine * at_q;
          row[q] = sine * at_p + cosine * at_q;
        }
      }
    }
  }
  // A product of rotations is one; only its quaternion is wanted (Shepperd, 1978).
  const double diagonal[4] = {v[0][0] + v[1][1] + v[2][2], v[0][0], v[1][1], v[2][2]};
  int largest = 0;
  for (int k = 1; k < 4; ++k) {
    if (diagonal[k] > diagonal[largest]) largest = k;
  }
  Axes out;
  if (largest == 0) {
    out.quat[0] = 1 + diagonal[0];
    out.quat[1] = v[2][1] - v[1][2];
    out.quat[2] = v[0][2] - v[2][0];
    out.quat[3] = v[1][0] - v[0][1];
  } else {
    const int i = largest - 1, j = (i + 1) % 3, k = (i + 2) % 3;
    out.quat[0] = v[k][j] - v[j][k];
    out.quat[1 + i] = 1 + v[i][i] - v[j][j] - v[k][k];
    out.quat[1 + j] = v[i][j] + v[j][i];
    out.quat[1 + k] = v[i][k] + v[k][i];
  }
  double length = 0;
  for (const double q : out.quat) length += q * q;
  for (double& q : out.quat) q /= std::sqrt(length);
  for (int k = 0; k < 3; ++k) out.variances[k] = a[k][k];
  return out;
}

}  // namespace belvedere::store
