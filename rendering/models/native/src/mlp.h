// Multilayer perceptrons over blocks of samples.
//
// A tile of outputs × samples is kept in registers over all inputs of a layer: each weight is
// read once for three vectors of samples, each vector of samples once for eight (or four)
// outputs, so that the multipliers are what limits. Inputs are added in order, for every sample
// alike, so a result depends on nothing but its sample.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "elementary.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

using neural::Activation;
using neural::kBlock;
using neural::kOutputGroup;
using neural::LayerView;
using neural::MlpView;

constexpr int kTileVectors = 3;
constexpr int kTileSamples = kTileVectors * kLanes;
static_assert(kBlock % kTileSamples == 0);

#if defined(__AVX512F__)
constexpr int kTileOutputs = 8;  // 24 accumulators of 32 registers
#else
constexpr int kTileOutputs = 4;  // 12 of 16
#endif

BELVEDERE_INLINE VF activated(Activation activation, VF v) {
  switch (activation) {
    case Activation::kRelu:
      return max(v, VF{});
    case Activation::kSigmoid:
      return sigmoid(v);
    case Activation::kTanh:
      return tanh(v);
    case Activation::kExp:
      return exp(min(v, splat(neural::kExpLimit)));
    case Activation::kSoftplus:
      return softplus(v);
    case Activation::kNone:
    case Activation::kSoftmax:
      break;
  }
  return v;
}

// sums[o][t] += weights[i][o] · x[i][t] over `inputs` rows; `stride` from a row of weights to the
// next.
template <int O>
BELVEDERE_INLINE void accumulate(VF (&sums)[O][kTileVectors], const float*& weights, int stride,
                                 const float* x, int inputs) {
  for (int i = 0; i < inputs; ++i, weights += stride, x += kBlock) {
    VF v[kTileVectors];
    for (int t = 0; t < kTileVectors; ++t) v[t] = load(x + t * kLanes);
    for (int o = 0; o < O; ++o) {
      const VF w = splat(weights[o]);
      for (int t = 0; t < kTileVectors; ++t) sums[o][t] = fma(w, v[t], sums[o][t]);
    }
  }
}

template <Activation kActivation, int O>
BELVEDERE_INLINE void finish(const VF (&sums)[O][kTileVectors], float* out) {
  for (int o = 0; o < O; ++o) {
    for (int t = 0; t < kTileVectors; ++t) {
      store(out + o * kBlock + t * kLanes, activated(kActivation, sums[o][t]));
    }
  }
}

// O outputs of one tile of samples. `before` are the network's own inputs, where a layer has
// these put before its own.
template <int O>
void layer_tile(const LayerView& layer, const float* weights, int stride, const float* bias,
                const float* before, int before_inputs, const float* in, float* out) {
  VF sums[O][kTileVectors];
  for (int o = 0; o < O; ++o) {
    for (int t = 0; t < kTileVectors; ++t) sums[o][t] = splat(bias[o]);
  }
  if (before_inputs) accumulate<O>(sums, weights, stride, before, before_inputs);
  accumulate<O>(sums, weights, stride, in, layer.inputs - before_inputs);
  switch (layer.activation) {
    case Activation::kRelu:
      return finish<Activation::kRelu>(sums, out);
    case Activation::kSigmoid:
      return finish<Activation::kSigmoid>(sums, out);
    case Activation::kTanh:
      return finish<Activation::kTanh>(sums, out);
    case Activation::kExp:
      return finish<Activation::kExp>(sums, out);
    case Activation::kSoftplus:
      return finish<Activation::kSoftplus>(sums, out);
    case Activation::kNone:
    case Activation::kSoftmax:
      return finish<Activation::kNone>(sums, out);
  }
}

using LayerTile = void (*)(const LayerView&, const float*, int, const float*, const float*, int,
                           const float*, float*);

// By number of outputs, from 1.
constexpr LayerTile kLayerTiles[kOutputGroup] = {
    layer_tile<1>, layer_tile<2>, layer_tile<3>, layer_tile<4>,
#if defined(__AVX512F__)
    layer_tile<5>, layer_tile<6>, layer_tile<7>, layer_tile<8>,
#endif
};

// Over all rows of a block, in place.
inline void softmax(float* rows, int count) {
  for (int s = 0; s < kBlock; s += kLanes) {
    VF largest = load(rows + s), sum{};
    for (int i = 1; i < count; ++i) largest = max(largest, load(rows + i * kBlock + s));
    for (int i = 0; i < count; ++i) {
      const VF e = exp(load(rows + i * kBlock + s) - largest);
      store(rows + i * kBlock + s, e);
      sum += e;
    }
    const VF scale = 1.0f / sum;
    for (int i = 0; i < count; ++i) {
      store(rows + i * kBlock + s, load(rows + i * kBlock + s) * scale);
    }
  }
}

inline void layer_block(const LayerView& layer, const float* before, int before_inputs,
                        const float* in, float* out) {
  if (!layer.skip) before_inputs = 0;
  for (int s = 0; s < kBlock; s += kTileSamples) {
    const float* weights = layer.weights;
    for (int first = 0; first < layer.outputs; first += kOutputGroup) {
      const int group = layer.outputs - first < kOutputGroup ? layer.outputs - first : kOutputGroup;
      for (int o = 0; o < group; o += kTileOutputs) {
        const int outputs = group - o < kTileOutputs ? group - o : kTileOutputs;
        kLayerTiles[outputs - 1](layer, weights + o, group, layer.bias + first + o, before + s,
                                 before_inputs, in + s, out + (first + o) * kBlock + s);
      }
      weights += static_cast<std::ptrdiff_t>(group) * layer.inputs;
    }
  }
  if (layer.activation == Activation::kSoftmax) softmax(out, layer.outputs);
}

// See types.h, Kernels::mlp.
inline void mlp_block(const MlpView& mlp, const float* in, float* out, float* scratch) {
  if (mlp.layer_count == 0) {
    std::memcpy(out, in, sizeof(float) * kBlock * mlp.inputs);
    return;
  }
  float* const buffers[2] = {scratch, scratch + mlp.widest * kBlock};
  const float* values = in;
  for (int k = 0; k < mlp.layer_count; ++k) {
    float* target = k + 1 == mlp.layer_count ? out : buffers[k % 2];
    layer_block(mlp.layers[k], in, mlp.inputs, values, target);
    values = target;
  }
}

// See types.h, Kernels::multiply_limit.
inline std::uint64_t multiply_limit(int repeats, float* sink) {
  constexpr int kSums = 12;  // enough to hide the multipliers' latency
  VF sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = splat(static_cast<float>(i));
  const VF a = splat(sink[0]), b = splat(sink[1]);
  for (int r = 0; r < repeats; ++r) {
    for (int i = 0; i < kSums; ++i) sums[i] = fma(a, sums[i], b);
  }
  for (int i = 1; i < kSums; ++i) sums[0] += sums[i];
  store(sink, sums[0]);
  return std::uint64_t{2} * kLanes * kSums * repeats;
}

}  // namespace belvedere::BELVEDERE_ISA
