// What stands in for Gaussians that belong together: one with their moments.
//
// Weights are opacity times projected area; the merged Gaussian has the weighted mean, the
// weighted covariance about it and the weighted harmonics. Its opacity is such that opacity ·
// area, the light that it holds back, is what they held back together; it may exceed 1, which
// keeps closed surfaces closed, because the image model clips alpha pixel by pixel.
//
// Where its members are spread more evenly than a Gaussian, they are likely to be a part of a
// surface that goes on. Side by side, such parts with their own moments are spots with gaps
// between: an even spread over a square of side a has the deviation 0.29 a, and Gaussians at
// that distance add up to something even only from 0.5 a on. So these are grown, the less the
// more opaque they are: what is opaque has flat tops that meet, and blurs if it is grown.
#include "merge.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

#include "bindings.h"
#include "kurtosis.h"
#include "symmetric3.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using NewFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Labels = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewLabels = nb::ndarray<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr double kTwoPi = 6.283185307179586;
// Of the squared spacing of the merged Gaussians. Found by rendering (docs/adr/0006).
constexpr double kWeightFootprint = 1.0;
constexpr double kShapeFootprint = 0.03;
// Merged Gaussians have been widened already when they were merged.
constexpr double kOriginalOpacityFootprint = 0.12;
constexpr double kMergedOpacityFootprint = 0.02;
constexpr double kMinOpacity = 1e-6;       // so that weights are never all zero
constexpr double kMinScale = 1e-20;        // as scenes are loaded (scene_store/loading.py)
constexpr double kMaxOpacity = 8.0;        // what the compact profile covers
constexpr double kMinArea = 1e-300;
// Growth of merged covariances, by their kurtosis relative to a Gaussian's (an even spread over
// a square has 0.7) and by the opacity that they would have ungrown.
constexpr double kMaxGrowth = 3.0;
constexpr double kEvenKurtosis = 0.75, kPeakedKurtosis = 0.97;
constexpr double kTranslucent = 3.0, kOpaque = 6.0;

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

Covariance covariance_of(const float* quat, const float* scale) {
  const double w = quat[0], x = quat[1], y = quat[2], z = quat[3];
  const double r[3][3] = {
      {1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
      {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
      {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}};
  const double v[3] = {double(scale[0]) * scale[0], double(scale[1]) * scale[1],
                       double(scale[2]) * scale[2]};
  const auto entry = [&](int i, int j) {
    return r[i][0] * r[j][0] * v[0] + r[i][1] * r[j][1] * v[1] + r[i][2] * r[j][2] * v[2];
  };
  return {entry(0, 0), entry(0, 1), entry(0, 2), entry(1, 1), entry(1, 2), entry(2, 2)};
}

double trace_of(const float* s) {
  return double(s[0]) * s[0] + double(s[1]) * s[1] + double(s[2]) * s[2];
}

double second_invariant_of(const float* s) {
  const double a = double(s[0]) * s[0], b = double(s[1]) * s[1], c = double(s[2]) * s[2];
  return a * b + a * c + b * c;
}

// Relative to the spacing that merged Gaussians of middling weight would have side by side.
// The median: a few huge Gaussians of the background must not widen everything else.
Footprints footprints_of(const MergeInput& in, std::size_t target) {
  std::vector<double> masses(in.count);
  for (std::size_t i = 0; i < in.count; ++i) {
    const float* scale = in.scales + 3 * i;
    masses[i] = in.opacities[i] *
                projected_area(trace_of(scale), second_invariant_of(scale), 0.0);
  }
  const auto middle = masses.begin() + static_cast<std::ptrdiff_t>(in.count / 2);
  std::nth_element(masses.begin(), middle, masses.end());
  const double each = static_cast<double>(in.count) / static_cast<double>(target);
  const double squared_spacing = *middle * each / kTwoPi;
  const double opacity = in.original ? kOriginalOpacityFootprint : kMergedOpacityFootprint;
  return {kWeightFootprint * squared_spacing, opacity * squared_spacing,
          kShapeFootprint * squared_spacing};
}

struct MergeOutput {
  float* means;
  float* quats;
  float* scales;
  float* opacities;
  float* sh;
  float* sizes;
  float* variances;
};

// Sums over the members of one label.
struct Moments {
  double weight = 0, mass = 0, size = 0;
  double mean[3] = {0, 0, 0};
  Covariance covariance = {0, 0, 0, 0, 0, 0};
  double kurtosis = 0;  // relative to a Gaussian's

  double area(double growth, double footprint) const {
    const double minors = std::max(covariance.second_invariant(), 0.0);
    return projected_area(growth * covariance.trace(), growth * growth * minors, footprint);
  }
};

void add_spread(Covariance& sum, const Covariance& own, const double* d, double weight) {
  sum.xx += weight * (own.xx + d[0] * d[0]);
  sum.xy += weight * (own.xy + d[0] * d[1]);
  sum.xz += weight * (own.xz + d[0] * d[2]);
  sum.yy += weight * (own.yy + d[1] * d[1]);
  sum.yz += weight * (own.yz + d[1] * d[2]);
  sum.zz += weight * (own.zz + d[2] * d[2]);
}

std::array<double, 3> from_mean(const MergeInput& in, std::size_t i, const Moments& sum) {
  std::array<double, 3> d;
  for (int k = 0; k < 3; ++k) d[k] = in.means[3 * i + k] - sum.mean[k];
  return d;
}

void add_kurtosis(const MergeInput& in, const Weighed& weighed, const std::uint32_t* labels,
                  std::vector<Moments>& sums) {
  std::vector<Kurtosis> measures;
  measures.reserve(sums.size());
  for (const Moments& sum : sums) measures.emplace_back(sum.covariance);
  for (std::size_t i = 0; i < in.count; ++i) {
    Moments& sum = sums[labels[i]];
    const Kurtosis& measure = measures[labels[i]];
    const double part = measure.part(weighed.covariances[i], from_mean(in, i, sum).data());
    sum.kurtosis += weighed.weights[i] / sum.weight * part / measure.of_gaussian();
  }
}

std::vector<Moments> moments_of(const MergeInput& in, const float* sizes, const Weighed& weighed,
                                const std::uint32_t* labels, std::size_t target) {
  std::vector<Moments> sums(target);
  for (std::size_t i = 0; i < in.count; ++i) {
    Moments& sum = sums[labels[i]];
    const double weight = weighed.weights[i];
    sum.weight += weight;
    sum.mass += weighed.masses[i];
    sum.size += weight * sizes[i];
    for (int k = 0; k < 3; ++k) sum.mean[k] += weight * in.means[3 * i + k];
  }
  for (Moments& sum : sums) {
    sum.size /= sum.weight;
    for (double& m : sum.mean) m /= sum.weight;
  }
  for (std::size_t i = 0; i < in.count; ++i) {
    Moments& sum = sums[labels[i]];
    add_spread(sum.covariance, weighed.covariances[i], from_mean(in, i, sum).data(),
               weighed.weights[i] / sum.weight);
  }
  add_kurtosis(in, weighed, labels, sums);
  return sums;
}

// The factor by which a covariance is grown.
double growth_of(const Moments& sum, double footprint) {
  const double opacity = sum.mass / std::max(sum.area(1.0, footprint), kMinArea);
  const auto ramp = [](double from, double to, double at) {
    return std::clamp((at - from) / (to - from), 0.0, 1.0);
  };
  return 1 + (kMaxGrowth - 1) * ramp(kPeakedKurtosis, kEvenKurtosis, sum.kurtosis) *
                 ramp(kOpaque, kTranslucent, opacity);
}

void write_gaussian(const Moments& sum, double footprint, std::size_t at, const MergeOutput& out) {
  const Axes axes = principal_axes(sum.covariance);
  const double growth = growth_of(sum, footprint);
  for (int k = 0; k < 3; ++k) {
    out.means[3 * at + k] = static_cast<float>(sum.mean[k]);
    const double deviation = std::sqrt(growth * std::max(axes.variances[k], 0.0));
    out.scales[3 * at + k] = static_cast<float>(std::max(deviation, kMinScale));
  }
  for (int k = 0; k < 4; ++k) out.quats[4 * at + k] = static_cast<float>(axes.quat[k]);
  const double opacity = sum.mass / std::max(sum.area(growth, footprint), kMinArea);
  out.opacities[at] = static_cast<float>(std::clamp(opacity, kMinOpacity, kMaxOpacity));
  out.sizes[at] = static_cast<float>(sum.size);
}

void merge_harmonics(const MergeInput& in, const Weighed& weighed, const std::uint32_t* labels,
                     const std::vector<Moments>& sums, float* out) {
  const std::size_t width = 3 * in.bases;
  std::vector<double> totals(sums.size() * width, 0.0);
  for (std::size_t i = 0; i < in.count; ++i) {
    const double share = weighed.weights[i] / sums[labels[i]].weight;
    double* total = totals.data() + labels[i] * width;
    const float* sh = in.sh + i * width;
    for (std::size_t k = 0; k < width; ++k) total[k] += share * sh[k];
  }
  std::copy(totals.begin(), totals.end(), out);
}

// The squared difference of the displayed colour (of degree 0) to that of what stands in, with
// what it differed from the originals before.
void merge_variances(const MergeInput& in, const float* variances, const Weighed& weighed,
                     const std::uint32_t* labels, const std::vector<Moments>& sums,
                     const MergeOutput& out) {
  std::vector<double> totals(sums.size(), 0.0);
  for (std::size_t i = 0; i < in.count; ++i) {
    const float* own = in.sh + 3 * in.bases * i;
    const float* merged = out.sh + 3 * in.bases * labels[i];
    double square = 0;
    for (int k = 0; k < 3; ++k) {
      const double d = kColorOfSh0 * (static_cast<double>(own[k]) - merged[k]);
      square += d * d;
    }
    totals[labels[i]] += weighed.weights[i] / sums[labels[i]].weight * (variances[i] + square);
  }
  std::copy(totals.begin(), totals.end(), out.variances);
}

MergeInput checked(const Floats& means, const Floats& quats, const Floats& scales,
                   const Floats& opacities, const Floats& sh, bool original,
                   std::size_t target) {
  const std::size_t count = means.ndim() == 2 ? means.shape(0) : 0;
  const auto is = [count](const Floats& a, std::size_t width) {
    return a.ndim() == 2 && a.shape(0) == count && a.shape(1) == width;
  };
  require(is(means, 3) && is(quats, 4) && is(scales, 3), "arrays must be [N, 3], [N, 4], [N, 3]");
  require(opacities.ndim() == 1 && opacities.shape(0) == count, "opacities must be [N]");
  require(sh.ndim() == 3 && sh.shape(0) == count && sh.shape(2) == 3, "sh must be [N, K, 3]");
  require(target >= 1 && target <= count, "target must be 1 to N");
  require(count < UINT32_MAX, "too many Gaussians for one merge");
  return {means.data(), quats.data(), scales.data(), opacities.data(),
          sh.data(),    count,        sh.shape(1),   original};
}

void bound_cluster(const Floats& means, const Floats& quats, const Floats& scales,
                   const Floats& opacities, const Floats& sh, bool original,
                   std::size_t target, const NewLabels& out) {
  const MergeInput in = checked(means, quats, scales, opacities, sh, original, target);
  require(out.shape(0) == in.count, "labels must be [N]");
  std::uint32_t* to = out.data();
  nb::gil_scoped_release released;
  const auto labels = cluster(in, weigh(in, target), target);
  std::copy(labels.begin(), labels.end(), to);
}

void bound_merge(const Floats& means, const Floats& quats, const Floats& scales,
                 const Floats& opacities, const Floats& sh, bool original,
                 const Floats& sizes, const Floats& variances, const Labels& labels,
                 const NewFloats& new_means, const NewFloats& new_quats,
                 const NewFloats& new_scales, const NewFloats& new_opacities,
                 const NewFloats& new_sh, const NewFloats& new_sizes,
                 const NewFloats& new_variances) {
  const std::size_t target = new_sizes.size();
  const MergeInput in = checked(means, quats, scales, opacities, sh, original, target);
  require(sizes.size() == in.count && variances.size() == in.count &&
              labels.shape(0) == in.count,
          "one size, variance and label each");
  require(new_means.size() == 3 * target && new_quats.size() == 4 * target &&
              new_scales.size() == 3 * target && new_opacities.size() == target &&
              new_sh.size() == 3 * in.bases * target && new_variances.size() == target,
          "outputs must have one entry a label");
  const MergeOutput out{new_means.data(),     new_quats.data(), new_scales.data(),
                        new_opacities.data(), new_sh.data(),    new_sizes.data(),
                        new_variances.data()};
  const float *size = sizes.data(), *variance = variances.data();
  const std::uint32_t* label = labels.data();
  nb::gil_scoped_release released;
  std::vector<bool> used(target, false);
  for (std::size_t i = 0; i < in.count; ++i) {
    require(label[i] < target, "labels must be below the number of outputs");
    used[label[i]] = true;
  }
  require(std::find(used.begin(), used.end(), false) == used.end(), "each label must be used");
  const Weighed weighed = weigh(in, target);
  const auto sums = moments_of(in, size, weighed, label, target);
  for (std::size_t at = 0; at < target; ++at) {
    write_gaussian(sums[at], weighed.footprints.opacity, at, out);
  }
  merge_harmonics(in, weighed, label, sums, out.sh);
  merge_variances(in, variance, weighed, label, sums, out);
}

}  // namespace

double projected_area(double trace, double second_invariant, double footprint) {
  // 2π √(nᵀ adj(Σ + f I) n), whose mean square over unit vectors n is tr adj(Σ + f I) / 3.
  const double minors = second_invariant + 2 * footprint * trace + 3 * footprint * footprint;
  return kTwoPi * std::sqrt(minors / 3);
}

Weighed weigh(const MergeInput& in, std::size_t target) {
  Weighed out;
  out.footprints = footprints_of(in, target);
  out.covariances.resize(in.count);
  out.weights.resize(in.count);
  out.masses.resize(in.count);
  for (std::size_t i = 0; i < in.count; ++i) {
    const float* scale = in.scales + 3 * i;
    out.covariances[i] = covariance_of(in.quats + 4 * i, scale);
    const double trace = trace_of(scale), minors = second_invariant_of(scale);
    const double opacity = std::max(double(in.opacities[i]), kMinOpacity);
    const auto mass = [&](double footprint) {
      return std::max(opacity * projected_area(trace, minors, footprint), kMinArea);
    };
    out.weights[i] = mass(out.footprints.weight);
    out.masses[i] = mass(out.footprints.opacity);
  }
  return out;
}

void bind_merge(nb::module_& m) {
  m.def("cluster", &bound_cluster, "means"_a, "quats"_a, "scales"_a, "opacities"_a, "sh"_a,
        "original"_a, "target"_a, "out"_a);
  m.def("merge_clusters", &bound_merge, "means"_a, "quats"_a, "scales"_a, "opacities"_a, "sh"_a,
        "original"_a, "sizes"_a, "variances"_a, "labels"_a, "new_means"_a, "new_quats"_a,
        "new_scales"_a, "new_opacities"_a, "new_sh"_a, "new_sizes"_a, "new_variances"_a);
}

}  // namespace belvedere::store
