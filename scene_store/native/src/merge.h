// Merging Gaussians: which belong together, and what stands in for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace belvedere::store {

// Displayed colour of a degree-0 coefficient.
constexpr float kColorOfSh0 = 0.28209479f;

// N Gaussians as the rest of the project holds them (splat/gaussians.py).
struct MergeInput {
  const float* means;
  const float* quats;
  const float* scales;
  const float* opacities;
  const float* sh;
  std::size_t count;
  std::size_t bases;
  bool original;  // of the scene itself, not merged before
};

struct Covariance {
  double xx, xy, xz, yy, yz, zz;

  double trace() const { return xx + yy + zz; }
  // Sum of the principal 2 × 2 minors.
  double second_invariant() const {
    return xx * yy + xx * zz + yy * zz - xy * xy - xz * xz - yz * yz;
  }
};

// The squared widths by which Gaussians are thought to be widened when they are weighed, world
// units². A chunk of `target` merged Gaussians is drawn where they are about as large as
// pixels, and there the image model widens everything by a part of a pixel: what is thinner
// than that counts for more than its own area. All are relative to the spacing of the merged.
struct Footprints {
  double weight;   // for weights in the moments
  double opacity;  // for the opacity mass that is preserved
  double shape;    // for the cost of merging two of different shapes
};

// ∫ exp(−½ dᵀ S⁻¹ d) of the projection S of a covariance widened by `footprint`: the root of
// its mean square over all directions, which has a closed form.
double projected_area(double trace, double second_invariant, double footprint);

// What both stages need of each Gaussian.
struct Weighed {
  std::vector<Covariance> covariances;
  std::vector<double> weights;  // opacity · area widened by footprints.weight
  std::vector<double> masses;   // opacity · area widened by footprints.opacity
  Footprints footprints;
};
Weighed weigh(const MergeInput& in, std::size_t target);

// A label in [0, target) for each Gaussian; those of the same label are to be merged. Labels
// follow the Z-curve. Needs 1 <= target <= count.
std::vector<std::uint32_t> cluster(const MergeInput& in, const Weighed& weighed,
                                   std::size_t target);

}  // namespace belvedere::store
