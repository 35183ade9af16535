// Which Gaussians to merge: rounds of pairing neighbours along the Z-curve.
//
// In each round every Gaussian looks at the next few on both sides and picks the one with which
// it would lose least; the cheapest pairs that picked each other become one. Few pairs a round,
// so that what is dear to merge stays as it is while there is something cheaper. Every other
// round the curve's cells are shifted, so that no cell border keeps neighbours apart for good.
//
// The cost of a pair is Runnalls' upper bound on the Kullback–Leibler divergence between the
// two and their moment-matched merge ("Kullback–Leibler Approach to Gaussian Mixture
// Reduction", 2007), plus the spread of colours. Covariances are kept from being flatter than
// kFlatness and widened by a footprint, because shapes that no pixel shows cost nothing. It is
// proportional to weight: what contributes little to an image is merged first.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "merge.h"
#include "morton.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
// Without fused products all versions give the same bits.
#define BELVEDERE_VERSIONS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define BELVEDERE_VERSIONS
#endif

namespace belvedere::store {
namespace {

constexpr int kWindow = 8;            // neighbours on each side
constexpr float kFlatness = 0.02f;    // of the trace, added to each variance
constexpr float kColorWeight = 5.0f;  // nats for a squared difference of 1 in displayed colour
constexpr double kRoundShare = 0.2;   // of the Gaussians that are left, pairs merged in a round
constexpr double kLargestDeviation = 1e6;  // of the chunk's size: keeps determinants in range
constexpr double kWeightRange = 1e12;
constexpr std::size_t kBlock = 1024;  // whose columns stay in the cache for all offsets
constexpr double kShift = 0.37;       // of a cell at every scale: its binary digits alternate

enum Column { X, Y, Z, XX, XY, XZ, YY, YZ, ZZ, WEIGHT, RED, GREEN, BLUE, kColumns };

struct Columns {
  std::vector<float> column[kColumns];
  float footprint = 0;  // added to each variance of a pair

  std::size_t size() const { return column[0].size(); }
  void resize(std::size_t count) {
    for (auto& c : column) c.resize(count);
  }
};

// In units of the chunk's size and of the mean weight, so that float32 does for any scene.
Columns columns_of(const MergeInput& in, const Weighed& weighed) {
  double center[3] = {0, 0, 0}, total = 0, extent = 0;
  for (std::size_t i = 0; i < in.count; ++i) {
    for (int k = 0; k < 3; ++k) center[k] += in.means[3 * i + k] / static_cast<double>(in.count);
    total += weighed.weights[i];
  }
  for (std::size_t i = 0; i < in.count; ++i) {
    for (int k = 0; k < 3; ++k) {
      extent = std::max(extent, std::fabs(in.means[3 * i + k] - center[k]));
    }
  }
  const double scale = extent > 0 ? 1 / extent : 1.0;
  const double per_weight = total > 0 ? static_cast<double>(in.count) / total : 1.0;
  Columns out;
  out.resize(in.count);
  out.footprint = static_cast<float>(weighed.footprints.shape * scale * scale);
  for (std::size_t i = 0; i < in.count; ++i) {
    for (int k = 0; k < 3; ++k) {
      out.column[X + k][i] = static_cast<float>((in.means[3 * i + k] - center[k]) * scale);
      out.column[RED + k][i] = in.sh[3 * in.bases * i + k] * kColorOfSh0;
    }
    const Covariance& c = weighed.covariances[i];
    const double largest = kLargestDeviation * kLargestDeviation;
    const double factor = scale * scale * std::min(1.0, largest / (c.trace() * scale * scale));
    const double values[6] = {c.xx, c.xy, c.xz, c.yy, c.yz, c.zz};
    for (int k = 0; k < 6; ++k) out.column[XX + k][i] = static_cast<float>(values[k] * factor);
    out.column[WEIGHT][i] = static_cast<float>(
        std::clamp(weighed.weights[i] * per_weight, 1 / kWeightRange, kWeightRange));
  }
  return out;
}

// log2 of a positive, normal float within 1e-5, by its exponent and a polynomial: vectorizes.
inline __attribute__((always_inline)) float fast_log2(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const std::int32_t exponent = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;
  bits -= static_cast<std::uint32_t>(exponent) << 23;
  float m;
  std::memcpy(&m, &bits, sizeof m);
  m -= 1.0f;  // in [−0.293, 0.415]
  float p = 0.1183f;
  p = p * m - 0.1853f;
  p = p * m + 0.2021f;
  p = p * m - 0.2396f;
  p = p * m + 0.28852f;
  p = p * m - 0.360674f;
  p = p * m + 0.480898f;
  p = p * m - 0.7213475f;
  p = p * m + 1.442695f;
  return static_cast<float>(exponent) + p * m;
}

inline __attribute__((always_inline)) float determinant(float xx, float xy, float xz, float yy,
                                                        float yz, float zz) {
  return xx * (yy * zz - yz * yz) - xy * (xy * zz - xz * yz) + xz * (xy * yz - xz * yy);
}

// The cheapest neighbour so far, ahead on the curve and behind; offset 0 for none.
struct Best {
  std::vector<float> ahead_cost, behind_cost;
  std::vector<std::int32_t> ahead, behind;

  void reset(std::size_t count) {
    ahead_cost.assign(count, std::numeric_limits<float>::infinity());
    behind_cost.assign(count, std::numeric_limits<float>::infinity());
    ahead.assign(count, 0);
    behind.assign(count, 0);
  }
  void offer(std::size_t i, std::size_t j, float cost, std::int32_t offset) {
    if (cost < ahead_cost[i]) ahead_cost[i] = cost, ahead[i] = offset;
    if (cost < behind_cost[j]) behind_cost[j] = cost, behind[j] = offset;
  }
};

// Costs of the pairs (i, i + offset) for i in [first, first + size).
BELVEDERE_VERSIONS
void pair_costs(const float* const* column, float footprint, std::size_t first, std::size_t size,
                int offset, float* __restrict cost) {
  constexpr float kHalfLn2 = 0.34657359f;
  struct Side {
    const float *x, *y, *z, *xx, *xy, *xz, *yy, *yz, *zz, *weight, *red, *green, *blue;
  };
  const auto side = [column](std::size_t at) {
    return Side{column[X] + at,  column[Y] + at,  column[Z] + at,      column[XX] + at,
                column[XY] + at, column[XZ] + at, column[YY] + at,     column[YZ] + at,
                column[ZZ] + at, column[WEIGHT] + at, column[RED] + at, column[GREEN] + at,
                column[BLUE] + at};
  };
  const Side p = side(first), q = side(first + static_cast<std::size_t>(offset));
  for (std::size_t i = 0; i < size; ++i) {
    const float sum = p.weight[i] + q.weight[i];
    const float a = p.weight[i] / sum, b = q.weight[i] / sum, ab = a * b;
    const float dx = q.x[i] - p.x[i], dy = q.y[i] - p.y[i], dz = q.z[i] - p.z[i];
    const float mxx = a * p.xx[i] + b * q.xx[i] + ab * dx * dx;
    const float mxy = a * p.xy[i] + b * q.xy[i] + ab * dx * dy;
    const float mxz = a * p.xz[i] + b * q.xz[i] + ab * dx * dz;
    const float myy = a * p.yy[i] + b * q.yy[i] + ab * dy * dy;
    const float myz = a * p.yz[i] + b * q.yz[i] + ab * dy * dz;
    const float mzz = a * p.zz[i] + b * q.zz[i] + ab * dz * dz;
    const float e = kFlatness * (mxx + myy + mzz) + footprint + 1e-12f;
    const float merged = fast_log2(determinant(mxx + e, mxy, mxz, myy + e, myz, mzz + e));
    const float one = fast_log2(
        determinant(p.xx[i] + e, p.xy[i], p.xz[i], p.yy[i] + e, p.yz[i], p.zz[i] + e));
    const float two = fast_log2(
        determinant(q.xx[i] + e, q.xy[i], q.xz[i], q.yy[i] + e, q.yz[i], q.zz[i] + e));
    const float dr = q.red[i] - p.red[i], dg = q.green[i] - p.green[i];
    const float db = q.blue[i] - p.blue[i];
    cost[i] = kHalfLn2 * (p.weight[i] * (merged - one) + q.weight[i] * (merged - two)) +
              kColorWeight * sum * ab * (dr * dr + dg * dg + db * db);
  }
}

void find_best(const Columns& columns, Best& best) {
  const std::size_t count = columns.size();
  best.reset(count);
  const float* column[kColumns];
  for (int c = 0; c < kColumns; ++c) column[c] = columns.column[c].data();
  float cost[kBlock];
  for (std::size_t first = 0; first < count; first += kBlock) {
    for (int offset = 1; offset <= kWindow; ++offset) {
      const std::size_t ahead = static_cast<std::size_t>(offset);
      if (first + ahead >= count) break;
      const std::size_t size = std::min(kBlock, count - ahead - first);
      pair_costs(column, columns.footprint, first, size, offset, cost);
      for (std::size_t i = 0; i < size; ++i) {
        best.offer(first + i, first + i + ahead, cost[i], offset);
      }
    }
  }
}

struct Pair {
  float cost;
  std::uint32_t first, second;

  bool operator<(const Pair& other) const {
    return cost != other.cost ? cost < other.cost : first < other.first;
  }
};

// The `most` cheapest pairs that picked each other.
std::vector<Pair> mutual_pairs(const Best& best, std::size_t most) {
  const std::size_t count = best.ahead.size();
  const auto choice = [&](std::size_t i) {
    const bool ahead = best.ahead[i] && best.ahead_cost[i] <= best.behind_cost[i];
    return ahead ? i + static_cast<std::size_t>(best.ahead[i])
                 : i - static_cast<std::size_t>(best.behind[i]);
  };
  std::vector<Pair> pairs;
  pairs.reserve(count / 2);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t j = choice(i);
    if (j > i && choice(j) == i) {
      pairs.push_back({best.ahead_cost[i], static_cast<std::uint32_t>(i),
                       static_cast<std::uint32_t>(j)});
    }
  }
  if (pairs.empty()) {  // only where costs are not numbers: any neighbours will do
    for (std::size_t i = 0; i + 1 < count; i += 2) {
      pairs.push_back({0, static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i + 1)});
    }
  }
  if (pairs.size() > most) {
    std::nth_element(pairs.begin(), pairs.begin() + static_cast<std::ptrdiff_t>(most),
                     pairs.end());
    pairs.resize(most);
  }
  return pairs;
}

void merge_columns(const Columns& in, std::size_t i, std::size_t j, Columns& out, std::size_t at) {
  const float sum = in.column[WEIGHT][i] + in.column[WEIGHT][j];
  const float a = in.column[WEIGHT][i] / sum, b = in.column[WEIGHT][j] / sum;
  float d[3];
  for (int k = 0; k < 3; ++k) {
    d[k] = in.column[X + k][j] - in.column[X + k][i];
    out.column[X + k][at] = in.column[X + k][i] + b * d[k];
    out.column[RED + k][at] = a * in.column[RED + k][i] + b * in.column[RED + k][j];
  }
  int entry = XX;
  for (int row = 0; row < 3; ++row) {
    for (int k = row; k < 3; ++k, ++entry) {
      out.column[entry][at] =
          a * in.column[entry][i] + b * in.column[entry][j] + a * b * d[row] * d[k];
    }
  }
  out.column[WEIGHT][at] = sum;
}

// Along the curve over cells that are shifted or not; also where each one went.
void reorder(Columns& columns, Columns& scratch, bool shifted, std::vector<std::uint32_t>& place) {
  const std::size_t count = columns.size();
  constexpr double kCells = 1 << 16;
  const double offset = shifted ? kShift : 0.0;
  std::vector<std::uint64_t> keys(count);
  std::vector<std::uint32_t> order(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t cell[3];
    for (int k = 0; k < 3; ++k) {
      const double at = (columns.column[X + k][i] + 1.0) * 0.25 + offset;  // in [0, 0.87]
      cell[k] = static_cast<std::uint64_t>(std::clamp(at * kCells, 0.0, kCells - 1));
    }
    keys[i] = morton_code(cell[0], cell[1], cell[2]);
  }
  sort_by_key(keys.data(), order.data(), count);
  scratch.resize(count);
  for (int c = 0; c < kColumns; ++c) {
    for (std::size_t i = 0; i < count; ++i) scratch.column[c][i] = columns.column[c][order[i]];
  }
  std::swap(columns, scratch);
  place.resize(count);
  for (std::size_t i = 0; i < count; ++i) place[order[i]] = static_cast<std::uint32_t>(i);
}

// Each pair takes the place of its first, the others move up; also where each one went.
void contract(Columns& columns, Columns& scratch, const std::vector<Pair>& pairs,
              std::vector<std::uint32_t>& place) {
  constexpr std::uint32_t kAlone = UINT32_MAX;
  const std::size_t count = columns.size();
  std::vector<std::uint32_t> first_of(count, kAlone);
  for (const Pair& pair : pairs) first_of[pair.second] = pair.first;
  scratch.resize(count - pairs.size());
  place.resize(count);
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (first_of[i] != kAlone) {
      place[i] = place[first_of[i]];
      continue;
    }
    place[i] = next;
    for (int c = 0; c < kColumns; ++c) scratch.column[c][next] = columns.column[c][i];
    ++next;
  }
  for (const Pair& pair : pairs) {
    merge_columns(columns, pair.first, pair.second, scratch, place[pair.first]);
  }
  std::swap(columns, scratch);
}

}  // namespace

std::vector<std::uint32_t> cluster(const MergeInput& in, const Weighed& weighed,
                                   std::size_t target) {
  Columns columns = columns_of(in, weighed), scratch = columns;
  Best best;
  std::vector<std::uint32_t> labels(in.count), sorted, contracted;
  for (std::size_t i = 0; i < in.count; ++i) labels[i] = static_cast<std::uint32_t>(i);
  for (bool shifted = false; columns.size() > target; shifted = !shifted) {
    reorder(columns, scratch, shifted, sorted);
    find_best(columns, best);
    const auto round = static_cast<std::size_t>(kRoundShare * static_cast<double>(columns.size()));
    const std::size_t most = std::min(columns.size() - target, std::max<std::size_t>(round, 1));
    contract(columns, scratch, mutual_pairs(best, most), contracted);
    for (auto& label : labels) label = contracted[sorted[label]];
  }
  reorder(columns, scratch, false, sorted);
  for (auto& label : labels) label = sorted[label];
  return labels;
}

}  // namespace belvedere::store
