// Networks, encodings and whole radiance fields.
#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "neural_cases.h"
#include "network_pack.h"

namespace belvedere::neural::cases {
namespace {

using Encoding = std::shared_ptr<PackedEncoding>;

// As large as kernels were promised and no larger, so that a sanitizer sees what is beyond.
std::vector<float> scratch_of(std::size_t rows) {
  return std::vector<float>(std::max<std::size_t>(rows, 1) * kBlock);
}

struct LayerShape {
  int outputs;
  Activation activation = Activation::kRelu;
  bool skip = false;
};

// Weights such that sums over the inputs stay near 1.
std::shared_ptr<PackedMlp> mlp_of(Random& random, int inputs,
                                  const std::vector<LayerShape>& shapes) {
  std::vector<std::vector<float>> weights, biases;
  std::vector<LayerArrays> layers;
  int width = inputs;
  for (const LayerShape& shape : shapes) {
    if (shape.skip) width += inputs;
    const float most = 2.0f / std::sqrt(static_cast<float>(width));
    weights.push_back(
        random.uniforms(static_cast<std::size_t>(shape.outputs) * width, -most, most));
    biases.push_back(random.uniforms(shape.outputs, -0.5f, 0.5f));
    layers.push_back({nullptr, nullptr, width, shape.outputs, static_cast<int>(shape.activation),
                      shape.skip});
    width = shape.outputs;
  }
  for (std::size_t k = 0; k < layers.size(); ++k) {
    layers[k].weight = weights[k].data();
    layers[k].bias = biases[k].data();
  }
  return std::make_shared<PackedMlp>(inputs, layers);
}

void add_mlp(const Kernels& kernels, std::uint32_t seed, int inputs,
             const std::vector<LayerShape>& shapes, std::vector<Result>& out) {
  Random random(seed);
  const auto mlp = mlp_of(random, inputs, shapes);
  const MlpView& view = mlp->view();
  const std::vector<float> in = blocks(random, inputs, -1, 1);
  std::vector<float> scratch = scratch_of(2 * static_cast<std::size_t>(view.widest));
  Result result{"mlp " + std::to_string(inputs), 0, {}};
  int terms = 0;  // one rounding each, of sums that stay below 4 or so
  for (const LayerShape& shape : shapes) {
    result.name.append(1, '-').append(std::to_string(shape.outputs));
    if (shape.skip) result.name.append(1, '+');
  }
  result.name.append(" activation ");
  result.name.append(std::to_string(static_cast<int>(shapes.back().activation)));
  for (int k = 0; k < view.layer_count; ++k) terms += view.layers[k].inputs;
  result.tolerance = 0.25 * kUlp * (16 + terms);
  result.values.resize(in.size() / inputs * view.outputs);
  for (std::size_t b = 0; b < in.size() / (static_cast<std::size_t>(inputs) * kBlock); ++b) {
    kernels.mlp(view, &in[b * inputs * kBlock], &result.values[b * view.outputs * kBlock],
                scratch.data());
  }
  out.push_back(std::move(result));
}

void add_encoding(const Kernels& kernels, Random& random, std::string name, double tolerance,
                  const PackedEncoding& encoding, std::vector<Result>& out, float low = -0.1f,
                  float high = 1.1f) {
  const EncodingView& view = encoding.view();
  const std::vector<float> in = blocks(random, view.inputs, low, high, 8);
  Result result{std::move(name), tolerance, {}};
  result.values.resize(in.size() / view.inputs * view.outputs);
  for (std::size_t b = 0; b < in.size() / (static_cast<std::size_t>(view.inputs) * kBlock); ++b) {
    kernels.encode(view, &in[b * view.inputs * kBlock], &result.values[b * view.outputs * kBlock]);
  }
  out.push_back(std::move(result));
}

struct GridShape {
  int features;
  bool half;
  float shift;
};

// Dense levels and hashed ones, by a mask, by one subtraction and by division.
const std::vector<GridLevel> kLevels = {{15.0, 16, 4096, 0, false},
                                        {21.37, 23, 12168, 4096, false},
                                        {40.6, 42, 5001, 16264, false},
                                        {99.5, 101, 16384, 21265, true},
                                        {511.0, 512, 9973, 37649, true}};
constexpr std::int64_t kEntries = 37649 + 9973;
// What rounding a position in the finest level moves it by, times how steep values within ±1 are
// along three axes.
constexpr double kGridTolerance = 511 * kUlp * 6;

Encoding grid_of(Random& random, const GridShape& shape) {
  const std::size_t count = static_cast<std::size_t>(kEntries) * shape.features;
  std::shared_ptr<const void> values;
  if (shape.half) {
    auto halves = std::make_shared<std::vector<std::uint16_t>>(count);
    for (std::uint16_t& h : *halves) {
      // A sign, exponents up to that of ½ and of what is subnormal, and any fraction.
      const std::uint32_t exponent = random.below(4) ? 8 + random.below(7) : random.below(15);
      h = static_cast<std::uint16_t>(random.below(2) << 15 | exponent << 10 | random.below(1024));
    }
    values = std::shared_ptr<const void>(halves, halves->data());
  } else {
    auto floats = std::make_shared<std::vector<float>>(random.uniforms(count, -1, 1));
    values = std::shared_ptr<const void>(floats, floats->data());
  }
  return PackedEncoding::hash_grid(kLevels, {values.get(), kEntries, shape.features, shape.half},
                                   shape.shift, values);
}

struct PlaneShape {
  int channels, width, height, length;  // without a line: 0
  int axes[3];
  int whole_width, whole_height, column, row;
};

Encoding planes_of(Random& random, const std::vector<PlaneShape>& shapes, bool summed) {
  auto values = std::make_shared<std::vector<std::vector<float>>>();
  std::vector<PlaneView> views;
  for (const PlaneShape& s : shapes) {
    values->push_back(random.uniforms(std::size_t(s.channels) * s.width * s.height, -1, 1));
    values->push_back(random.uniforms(std::size_t(s.channels) * s.length, -1, 1));
    const float* const plane = (*values)[values->size() - 2].data();
    const float* const line = s.length ? values->back().data() : nullptr;
    views.push_back({plane, line, s.channels, s.width, s.height, s.length,
                     {s.axes[0], s.axes[1], s.axes[2]},
                     s.whole_width, s.whole_height, s.column, s.row});
  }
  return PackedEncoding::planes(std::move(views), 3, summed, values);
}

const std::vector<PlaneShape> kPlanes = {
    {3, 17, 9, 13, {0, 1, 2}, 17, 9, 0, 0},  // whole, with a line
    {5, 8, 31, 0, {2, 0, 1}, 40, 64, 11, 20},  // a window, without one
    {1, 1, 1, 1, {1, 2, 0}, 1, 1, 0, 0},
};
constexpr double kPlaneTolerance = 16 * kUlp;  // three mixtures of five channels; nothing is steep

Encoding frequencies_of(int dims, int count, bool first, bool last, bool by_dimension) {
  std::vector<double> radians;
  for (int i = 0; i < count; ++i) radians.push_back(3.14159265358979 * (1 << i));
  return PackedEncoding::frequencies(radians, {dims, first, last, by_dimension});
}

// Tolerances are those of the encodings times what networks make of them, a few times what is seen.
struct NetworkCase {
  std::string name;
  NetworkParts parts;
  double tolerance;
  float low, high;  // of positions
};

NetworkParts plain_parts() {
  NetworkParts parts{};
  parts.density_activation = static_cast<int>(Activation::kRelu);
  return parts;
}

NetworkCase instant_ngp(Random& random) {
  NetworkParts p = plain_parts();
  p.bounded = true;
  p.position = grid_of(random, {2, true, 0.5f});
  p.trunk = mlp_of(random, 10, {{64}, {16, Activation::kNone}});
  p.density_activation = static_cast<int>(Activation::kExp);
  p.direction = PackedEncoding::harmonics(4, false);
  p.color = mlp_of(random, 32, {{64}, {64}, {3, Activation::kSigmoid}});
  p.color_inputs = {static_cast<int>(ColorInput::kDirection),
                    static_cast<int>(ColorInput::kFeature)};
  return {"network of hash grids", std::move(p), 0.25 * kGridTolerance, -0.05f, 1.05f};
}

NetworkCase nerfacto(Random& random) {
  NetworkParts p = plain_parts();
  p.contraction = static_cast<int>(Contraction::kLinf);
  p.bounded = true;
  p.position = grid_of(random, {3, false, 0.0f});
  p.trunk = mlp_of(random, 15, {{33}, {8, Activation::kNone}});
  p.density_activation = static_cast<int>(Activation::kSoftplus);
  p.density_bias = -0.25f;
  p.feature_first = 1, p.feature_end = 8;
  p.direction = PackedEncoding::harmonics(5, true);
  p.appearance = random.uniforms(5, -1, 1);
  p.color = mlp_of(random, 7 + 25 + 5, {{31}, {3, Activation::kSigmoid}});
  p.color_inputs = {static_cast<int>(ColorInput::kAppearance),
                    static_cast<int>(ColorInput::kFeature),
                    static_cast<int>(ColorInput::kDirection)};
  return {"network in contracted space", std::move(p), 0.25 * kGridTolerance, -3, 3};
}

NetworkCase plain_nerf(Random& random) {
  NetworkParts p = plain_parts();
  p.contraction = static_cast<int>(Contraction::kL2);
  p.position = frequencies_of(3, 7, true, false, false);
  p.trunk = mlp_of(random, 45, {{65}, {65}, {65, Activation::kRelu, true}, {65}});
  p.density_head = mlp_of(random, 65, {{2, Activation::kNone}});
  p.density_column = 1;
  p.feature_head = mlp_of(random, 65, {{65, Activation::kNone}});
  p.direction = frequencies_of(3, 4, true, false, false);
  p.color = mlp_of(random, 65 + 27 + 45, {{33}, {3, Activation::kSigmoid}});
  p.color_inputs = {static_cast<int>(ColorInput::kFeature),
                    static_cast<int>(ColorInput::kDirection),
                    static_cast<int>(ColorInput::kPosition)};
  // The contraction rounds, and frequencies are up to 64 π.
  return {"network of frequencies", std::move(p), 200 * kUlp, -2, 2};
}

NetworkCase grid_nerf(Random& random) {
  NetworkParts p = plain_parts();
  p.bounded = true;
  p.position = PackedEncoding::parts(
      {planes_of(random, kPlanes, false), frequencies_of(3, 2, false, true, true)});
  p.trunk = mlp_of(random, 9 + 15, {{19, Activation::kTanh}, {11, Activation::kNone}});
  p.density_activation = static_cast<int>(Activation::kSoftplus);
  p.grid_position = planes_of(random, kPlanes, true);
  p.grid_basis = mlp_of(random, 3, {{4, Activation::kNone}});
  p.grid_encoding = frequencies_of(4, 2, true, false, false);
  p.direction = PackedEncoding::identity(3);
  p.color = mlp_of(random, 11 + 3 + 20, {{27}, {3, Activation::kSigmoid}});
  p.color_inputs = {static_cast<int>(ColorInput::kGrid), static_cast<int>(ColorInput::kFeature),
                    static_cast<int>(ColorInput::kDirection)};
  return {"network of planes", std::move(p), 4 * kPlaneTolerance, -0.05f, 1.05f};
}

void add_network(const Kernels& kernels, Random& random, const NetworkCase& network,
                 std::vector<Result>& out) {
  const PackedNetwork packed(network.parts);
  const NetworkView& view = packed.view();
  constexpr int kCount = 8;
  constexpr std::size_t kRows = 3 * kBlock;
  const std::vector<float> positions = blocks(random, 3, network.low, network.high, kCount);
  const std::vector<float> directions = blocks(random, 3, -1, 1, kCount);
  std::vector<float> scratch = scratch_of(view.scratch_rows);
  Result densities{network.name + ", densities", network.tolerance,
                   std::vector<float>(kCount * kBlock)};
  Result alone{network.name + ", densities alone", network.tolerance,
               std::vector<float>(kCount * kBlock)};
  Result colors{network.name + ", colours", network.tolerance, std::vector<float>(kCount * kRows)};
  for (int b = 0; b < kCount; ++b) {
    kernels.evaluate(view, &positions[b * kRows], &directions[b * kRows],
                     &densities.values[b * kBlock], &colors.values[b * kRows], scratch.data());
    kernels.evaluate(view, &positions[b * kRows], nullptr, &alone.values[b * kBlock], nullptr,
                     scratch.data());
  }
  out.push_back(std::move(densities)), out.push_back(std::move(alone));
  out.push_back(std::move(colors));
}

}  // namespace

void add_mlps(const Kernels& kernels, std::vector<Result>& out) {
  for (int activation = 0; activation <= static_cast<int>(Activation::kSoftmax); ++activation) {
    const Activation last = static_cast<Activation>(activation);
    add_mlp(kernels, 11 + activation, 7, {{17}, {33, Activation::kTanh}, {11, last}}, out);
  }
  add_mlp(kernels, 21, 1, {{1, Activation::kNone}}, out);
  for (int outputs = 2; outputs <= 9; ++outputs) {
    add_mlp(kernels, 21 + outputs, 3, {{outputs, Activation::kNone}}, out);
  }
  add_mlp(kernels, 31, 32, {{64}, {64}, {16, Activation::kNone}}, out);
  add_mlp(kernels, 32, 63, {{129}, {64, Activation::kRelu, true}, {4, Activation::kNone, true}},
          out);
}

void add_encodings(const Kernels& kernels, std::vector<Result>& out) {
  Random random(41);
  for (const bool half : {false, true}) {
    for (const int features : {1, 2, 3, 4, 8}) {
      const auto grid = grid_of(random, {features, half, features % 2 ? 0.0f : 0.5f});
      const std::string name = "hash grid of " + std::to_string(features);
      add_encoding(kernels, random, name + (half ? " halves" : " floats"), kGridTolerance, *grid,
                   out);
    }
  }
  for (const bool summed : {false, true}) {
    add_encoding(kernels, random, summed ? "planes, summed" : "planes", kPlaneTolerance,
                 *planes_of(random, kPlanes, summed), out);
  }
  for (int options = 0; options < 8; ++options) {
    const auto encoding = frequencies_of(1 + options % 3, 9, options & 1, options & 2, options & 4);
    // Angles are in double precision; a polynomial of five terms remains.
    add_encoding(kernels, random, "frequencies " + std::to_string(options), 5 * kUlp, *encoding,
                 out, -5, 5);
  }
  for (int degree = 1; degree <= 5; ++degree) {
    for (const bool remapped : {false, true}) {
      const auto encoding = PackedEncoding::harmonics(degree, remapped);
      const std::string name = "harmonics " + std::to_string(degree);
      add_encoding(kernels, random, name + (remapped ? ", remapped" : ""), 8 * kUlp, *encoding,
                   out, -1, 1);
    }
  }
}

void add_elementary(const Kernels& kernels, std::vector<Result>& out) {
  Random random(51);
  for (const auto contraction : {Contraction::kNone, Contraction::kL2, Contraction::kLinf}) {
    std::vector<float> in = blocks(random, 3, -4, 4, 4);
    in[0] = 1e30f, in[1] = -3e38f, in[2] = 1e-30f;  // of which the squares are not finite, or 0
    Result result{"contraction " + std::to_string(static_cast<int>(contraction)), 8 * kUlp,
                  std::vector<float>(in.size())};
    for (std::size_t at = 0; at < in.size(); at += 3 * kBlock) {
      kernels.contract(contraction, &in[at], &result.values[at]);
    }
    out.push_back(std::move(result));
  }
  for (const std::size_t count : {1, 7, 8, 15, 16, 17, 500}) {
    Result result{"opacities of " + std::to_string(count), 4 * kUlp,
                  random.uniforms(count, 0, count == 500 ? 100.0f : 2.0f)};
    if (count == 500) std::copy(extremes().begin(), extremes().end(), &result.values[133]);
    kernels.opacities(result.values.data(), count);
    out.push_back(std::move(result));
  }
}

void add_networks(const Kernels& kernels, std::vector<Result>& out) {
  Random random(61);
  for (const auto make : {instant_ngp, nerfacto, plain_nerf, grid_nerf}) {
    const NetworkCase network = make(random);
    add_network(kernels, random, network, out);
  }
}

}  // namespace belvedere::neural::cases
