// Neural anchors: which are chosen, and what they decode to. And rays' samples.
#include <algorithm>
#include <numeric>

#include "decode_types.h"
#include "march.h"
#include "mlp_pack.h"
#include "neural_cases.h"
#include "sampling.h"

namespace belvedere::neural::cases {
namespace {

// One layer with weights such that sums stay near 1.
class Layer {
 public:
  Layer(Random& random, int inputs, int outputs, Activation activation)
      : weight_(random.uniforms(static_cast<std::size_t>(inputs) * outputs, -0.4f, 0.4f)),
        bias_(random.uniforms(outputs, -0.3f, 0.5f)),
        mlp_(inputs, {{weight_.data(), bias_.data(), inputs, outputs,
                       static_cast<int>(activation), false}}) {}
  const MlpView& view() const { return mlp_.view(); }

 private:
  std::vector<float> weight_, bias_;
  PackedMlp mlp_;
};

struct AnchorShape {
  std::string name;
  int offsets, features;
  bool bank, levels;
  LevelRule rule;
};

// A model of random networks, and anchors of it.
struct AnchorCase {
  AnchorCase(Random& random, const AnchorShape& shape)
      : inputs(shape.features + 3 + shape.levels),
        opacity(random, inputs + 1, shape.offsets, Activation::kTanh),
        color(random, inputs, 3 * shape.offsets, Activation::kSigmoid),
        covariance(random, inputs + 1, 7 * shape.offsets, Activation::kNone),
        bank(random, 4, 3, Activation::kSoftmax) {
    networks.opacity = opacity.view(), networks.color = color.view();
    networks.covariance = covariance.view();
    networks.opacity_dist = networks.covariance_dist = true;
    networks.level_input = shape.levels;
    if (shape.bank) {
      networks.bank = bank.view(), networks.has_bank = true;
      networks.bank_distance = !shape.levels, networks.bank_level = shape.levels;
    }
    networks.offsets = shape.offsets, networks.features = shape.features;
    networks.width = 9 + 3 * shape.offsets + shape.features + 2 * shape.levels;
    if (shape.levels) {
      OctreeView& octree = networks.octree;
      octree.levels = kLevels, octree.rule = shape.rule;
      octree.standard_dist = 6, octree.res_scale = 1.25f, octree.per_log2 = 1;
      for (int i = 0; i < kLevels; ++i) octree.half_voxel[i] = 0.5f / static_cast<float>(1 << i);
    }
    for (std::size_t i = 0; i < kCount; ++i) add_row(random, shape);
  }

  // Means up to 5, logarithms of scales, offsets, features, and a level with its share of more.
  void add_row(Random& random, const AnchorShape& shape) {
    const auto add = [&](int count, float low, float high) {
      for (const float v : random.uniforms(count, low, high)) rows.push_back(v);
    };
    add(3, -5, 5), add(6, -3, 0), add(3 * shape.offsets, -1, 1), add(shape.features, -1, 1);
    if (!shape.levels) return;
    rows.push_back(static_cast<float>(random.below(kLevels)));
    add(1, -0.5f, 0.5f);
  }

  std::size_t scratch_floats() const {
    std::size_t count = networks.width + networks.features + 13 + 11 * networks.offsets;
    return (count + 2 * std::size_t(std::max(7 * networks.offsets, 3))) * kBlock;
  }

  static constexpr std::size_t kCount = 333;
  static constexpr int kLevels = 5;
  int inputs;
  Layer opacity, color, covariance, bank;
  AnchorNetworks networks{};
  std::vector<float> rows;
};

// Some numbers that are none, where rows of a model may have them.
void spoil(Random& random, const AnchorCase& anchors, std::vector<float>& rows) {
  for (int i = 0; i < 40; ++i) {
    const std::size_t row = random.below(AnchorCase::kCount);
    rows[row * anchors.networks.width + random.below(anchors.networks.width)] =
        extremes()[random.below(10)];
  }
}

constexpr std::size_t kGaussianFloats = 3 + 4 + 3 + 1 + 3;
// Sums of some 40 terms, and of exponentials of sums.
constexpr double kAnchorTolerance = 64 * kUlp;

// What is chosen and written is compared exactly: a number at a cut would be taken by some kernels
// only, of which there are one or two in a million, and none in these inputs.
void add_decoded(const Kernels& kernels, const AnchorCase& anchors, const std::vector<float>& rows,
                 const std::string& name, std::vector<Result>& out) {
  const AnchorNetworks& networks = anchors.networks;
  const AnchorView view{{0.25, -1.5, 0.75}, 0.02f};
  std::vector<std::int32_t> index;  // two of three, which is no whole number of blocks
  for (std::size_t i = 0; i < AnchorCase::kCount; ++i) {
    if (i % 3) index.push_back(static_cast<std::int32_t>(i));
  }
  std::vector<float> share(index.size(), 1.0f);
  ChosenAnchors chosen{rows.data(), index.data(), share.data(), index.size()};
  if (networks.octree.levels) {
    chosen.count = kernels.choose_levels(networks, view, chosen, index.data(), share.data());
    Result due{name + ", levels", kAnchorTolerance, {}};
    for (std::size_t i = 0; i < chosen.count; ++i) {
      due.values.push_back(static_cast<float>(index[i] + 1));
      due.values.push_back(share[i]);
    }
    out.push_back(std::move(due));
  }
  const std::size_t most = chosen.count * networks.offsets;
  std::vector<float> means(3 * most), quats(4 * most), scales(3 * most), opacities(most),
      sh(3 * most), scratch(anchors.scratch_floats());
  const GaussianTarget to{means.data(), quats.data(), scales.data(), opacities.data(), sh.data()};
  const std::size_t count = kernels.decode_anchors(networks, view, chosen, to, scratch.data());
  Result result{name + ", Gaussians", kAnchorTolerance, {}};
  const auto add = [&](const std::vector<float>& values, std::size_t width) {
    result.values.insert(result.values.end(), values.begin(), values.begin() + count * width);
  };
  add(means, 3), add(quats, 4), add(scales, 3), add(opacities, 1), add(sh, 3);
  out.push_back(std::move(result));
}

void add_visible(const Kernels& kernels, std::vector<Result>& out) {
  Random random(71);
  constexpr std::size_t kCount = 1003;
  std::vector<float> spheres = random.uniforms(3 * kCount, -8, 8);
  for (const float v : random.uniforms(2 * kCount, 0, 0.5f)) spheres.push_back(v);
  for (int i = 0; i < 50; ++i) {
    spheres[random.below(spheres.size())] = extremes()[random.below(10)];
  }
  FrustumView views[2]{};
  for (FrustumView& view : views) {
    for (float& p : view.position) p = random.uniform(-2, 2);
    view.slack = 1e-5f;
    for (FrustumSide& side : view.sides) {
      for (float& n : side.normal) n = random.uniform(-1, 1);
      side.length = 1.2f, side.offset = random.uniform(0, 4), side.reach = 3;
    }
  }
  std::vector<std::int32_t> index(kCount);
  for (const std::size_t count : {std::size_t{1}, std::size_t{13}, kCount}) {
    Result result{"visible of " + std::to_string(count), kUlp, {1}};
    const std::size_t seen =
        kernels.choose_visible({spheres.data(), count}, views, 2, index.data());
    for (std::size_t i = 0; i < seen; ++i) {
      result.values.push_back(static_cast<float>(index[i] + 1));
    }
    out.push_back(std::move(result));
  }
}

void add_marched(Random& random, std::vector<Result>& out) {
  constexpr int kCascades = 3, kSide = 13, kMost = 40;
  constexpr std::size_t kCells = std::size_t{kCascades} * kSide * kSide * kSide;
  const auto cells = std::make_unique<bool[]>(kCells);
  for (std::size_t i = 0; i < kCells; ++i) cells[i] = random.below(9) == 0;
  const Occupancy occupancy(cells.get(), kCascades, kSide);
  for (const double cone : {0.0, 0.01}) {
    Result result{cone > 0 ? "march, growing" : "march", kUlp, {}};
    for (int r = 0; r < 60; ++r) {
      MarchRay ray{};
      for (float& v : ray.origin) v = random.uniform(-0.3f, 1.3f);
      for (float& v : ray.direction) v = random.uniform(-1, 1);
      ray.last = 4;
      std::int32_t cursor = 0;
      while (cursor != kMarchDone) {
        float t[kMost], length[kMost];
        const int found = march_ray(occupancy, {0.004, 0.1, cone}, ray, r % 2 == 0, kMost, cursor,
                                    t, length);
        result.values.insert(result.values.end(), t, t + found);
        result.values.insert(result.values.end(), length, length + found);
      }
    }
    out.push_back(std::move(result));
  }
}

}  // namespace

void add_anchors(const Kernels& kernels, std::vector<Result>& out) {
  add_visible(kernels, out);
  Random random(81);
  for (const AnchorShape& shape : {
           AnchorShape{"anchors", 10, 32, false, false, LevelRule::kFloor},
           AnchorShape{"anchors of few values", 2, 1, false, false, LevelRule::kFloor},
           AnchorShape{"anchors with a bank", 5, 12, true, false, LevelRule::kFloor},
           AnchorShape{"octree, floor", 3, 7, false, true, LevelRule::kFloor},
           AnchorShape{"octree, round", 3, 8, true, true, LevelRule::kRound},
           AnchorShape{"octree, ceil", 3, 7, false, true, LevelRule::kCeil},
           AnchorShape{"octree, progressive", 3, 7, false, true, LevelRule::kProgressive},
       }) {
    const AnchorCase anchors(random, shape);
    add_decoded(kernels, anchors, anchors.rows, shape.name, out);
    std::vector<float> rows = anchors.rows;
    spoil(random, anchors, rows);
    add_decoded(kernels, anchors, rows, shape.name + ", spoiled", out);
  }
}

void add_rays(std::vector<Result>& out) {
  Random random(91);
  add_marched(random, out);
  constexpr int kBins = 37, kCount = 29;
  std::vector<float> borders(kBins + 1), weights = random.uniforms(kBins, -0.1f, 1);
  for (std::size_t i = 1; i < borders.size(); ++i) {
    borders[i] = borders[i - 1] + random.uniform(0, 0.2f);
  }
  RayScratch scratch;
  Result drawn{"borders from weights", kUlp, std::vector<float>(kCount + 1)};
  borders_from_weights(borders.data(), weights.data(), kBins, kCount, 0.01f, scratch,
                       drawn.values.data());
  out.push_back(std::move(drawn));
  Result merged{"samples from weights", kUlp, std::vector<float>(kBins + kCount)};
  samples_from_weights(borders.data(), weights.data(), kBins, kCount, scratch,
                       merged.values.data());
  std::vector<std::int32_t> ray(merged.values.size());
  for (std::size_t i = 0; i < ray.size(); ++i) ray[i] = static_cast<std::int32_t>(i / 33);
  const std::vector<float> opacities = random.uniforms(ray.size(), 0, 0.2f);
  const std::vector<float> colors = random.uniforms(3 * ray.size(), 0, 1);
  // Of two rays: colours, what is let through, depths, medians, last colours.
  Result blended{"composite", kUlp, std::vector<float>(2 * 9)};
  float* const v = blended.values.data();
  std::fill(v + 6, v + 8, 1.0f);
  composite({ray.data(), merged.values.data(), opacities.data(), colors.data(), ray.size()}, 0,
            ray.size(), 1e-4f, {v, v + 6, v + 8, v + 10, v + 12, 2});
  out.push_back(std::move(merged)), out.push_back(std::move(blended));
}

}  // namespace belvedere::neural::cases
