// Plain data that passes between the stages and between instruction sets.
//
// This header is compiled with different instruction sets in different files, and a linker
// keeps one copy of an inline function, whichever it meets first. So there are no functions
// here, no vector types, and nothing of the standard library that has functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace belvedere::neural {

// Samples that go through a network together, so that what lies between its layers stays in the
// cache. Batches inside the kernels are [values][kBlock] floats, aligned to a cache line; every
// lane is computed whether it is wanted or not, so no sample's result depends on another's.
constexpr int kBlock = 48;

// Outputs whose weights lie side by side, for each input; a layer's last group may have fewer.
constexpr int kOutputGroup = 8;

enum class Activation : int {
  kNone = 0,
  kRelu = 1,
  kSigmoid = 2,
  kTanh = 3,
  kExp = 4,  // of arguments up to kExpLimit
  kSoftplus = 5,
  kSoftmax = 6,  // over all outputs
};
constexpr float kExpLimit = 15.0f;

struct LayerView {
  const float* weights;  // groups of outputs, one after the other, each [inputs][outputs of it]
  const float* bias;     // [outputs]
  int inputs, outputs;
  Activation activation;
  bool skip;  // the network's input comes before the layer's own
};

struct MlpView {
  int inputs, outputs;
  int widest;  // most outputs of any layer
  int layer_count;
  const LayerView* layers;
};

// Of decode_types.h.
struct AnchorNetworks;
struct AnchorSpheres;
struct AnchorView;
struct ChosenAnchors;
struct FrustumView;
struct GaussianTarget;

enum class EncodingKind : int { kIdentity, kFrequency, kHarmonics, kHashGrid, kPlanes, kParts };

struct GridLevelView {
  float scale;
  std::uint32_t resolution;
  std::uint32_t entries;
  std::uint32_t first;  // entry of the table
  bool hashed;
  // How an index is brought below `entries`: by a mask, by one subtraction, or by division.
  enum class Wrap : int { kMask, kOnce, kModulo } wrap;
};

struct PlaneView {
  const float* plane;  // [channels][height][width]
  const float* line;   // [channels][length], or null
  int channels, width, height, length;
  int axes[3];
  // Of the whole plane, of which this is a window from (column, row) on.
  int whole_width, whole_height, column, row;
};

struct EncodingView {
  EncodingKind kind;
  int inputs, outputs;
  // Frequencies: quarter turns a unit.
  const double* quarter_turns;
  int frequencies;
  bool input_first, input_last, by_dimension;
  // Harmonics.
  int degree;
  bool remapped;
  // Hash grids: `features` values an entry, of 16 or 32 bits.
  const void* table;
  bool half;
  int features;
  float shift;
  const GridLevelView* levels;
  int level_count;
  // Planes.
  const PlaneView* planes;
  int plane_count;
  bool summed;
  // Several encodings of the same input.
  const EncodingView* parts;
  int part_count;
};

enum class Contraction : int { kNone = 0, kL2 = 1, kLinf = 2 };

// What a colour's network may be given.
enum class ColorInput : int {
  kFeature = 0,
  kDirection = 1,
  kPosition = 2,
  kAppearance = 3,
  kGrid = 4,
};
constexpr int kMaxColorInputs = 8;

// splat/fields.py, Network and FieldSpace.
struct NetworkView {
  Contraction contraction;
  bool bounded;
  EncodingView position;
  MlpView trunk, density_head, feature_head;
  int density_column;
  Activation density_activation;
  float density_bias;
  int feature_first, feature_count;
  bool has_color;
  EncodingView direction;
  MlpView color;
  int color_input_count;
  ColorInput color_inputs[kMaxColorInputs];
  const float* appearance;
  int appearance_width;
  bool has_grid, has_grid_encoding;
  EncodingView grid_position;
  MlpView grid_basis;
  EncodingView grid_encoding;
  int widest;  // layer of any network
  std::size_t scratch_rows;
};

// One set of kernels for each instruction set (kernels.cpp, compiled once for each).
struct Kernels {
  const char* name;
  bool (*supported)();
  // One block through a network: `in` [inputs][kBlock], `out` [outputs][kBlock], which may not
  // be one; `scratch` has room for 2 · widest rows.
  void (*mlp)(const MlpView& mlp, const float* in, float* out, float* scratch);
  // `repeats` rounds of multiplications and additions that need nothing but registers; returns
  // how many floating-point operations these were. The measure of the machine's own limit.
  std::uint64_t (*multiply_limit)(int repeats, float* sink);
  // The anchors that any of some views may show, ascending; returns how many.
  std::size_t (*choose_visible)(const AnchorSpheres& spheres, const FrustumView* views,
                                int view_count, std::int32_t* index);
  // Leaves out the anchors of `in` whose level is not due, writing the others' `index` and
  // `share`; returns how many are left.
  std::size_t (*choose_levels)(const AnchorNetworks& networks, const AnchorView& view,
                               const ChosenAnchors& in, std::int32_t* index, float* share);
  // Anchors as Gaussians; returns how many.
  std::size_t (*decode_anchors)(const AnchorNetworks& networks, const AnchorView& view,
                                const ChosenAnchors& in, const GaussianTarget& to,
                                float* scratch);
  // One block: `in` [inputs][kBlock], `out` [outputs][kBlock].
  void (*encode)(const EncodingView& encoding, const float* in, float* out);
  // Densities [kBlock] and, with `directions` [3][kBlock], colours [3][kBlock] at `positions`
  // [3][kBlock]; `scratch` has room for the network's scratch_rows.
  void (*evaluate)(const NetworkView& network, const float* positions, const float* directions,
                   float* densities, float* colors, float* scratch);
  // One block of positions [3][kBlock] as encodings take them; `out` may not be `in`.
  void (*contract)(Contraction contraction, const float* in, float* out);
  // -expm1(-x) of `count` values in place: opacities of optical depths, not below 0.
  void (*opacities)(float* depths, std::size_t count);
};

}  // namespace belvedere::neural
