#include "mlp_pack.h"

#include <algorithm>
#include <cstring>

#include "arguments.h"

namespace belvedere::neural {
namespace {

constexpr int kMaxWidth = 1024;  // as splat/networks.py
constexpr std::size_t kMaxLayers = 32;

// Output by output [O][I] → groups of outputs, [I][outputs of the group] each.
void pack_weights(const float* weight, int outputs, int inputs, float* packed) {
  for (int first = 0; first < outputs; first += kOutputGroup) {
    const int group = std::min(kOutputGroup, outputs - first);
    for (int i = 0; i < inputs; ++i) {
      for (int o = 0; o < group; ++o) {
        *packed++ = weight[static_cast<std::ptrdiff_t>(first + o) * inputs + i];
      }
    }
  }
}

}  // namespace

PackedMlp::PackedMlp(int inputs, const std::vector<LayerArrays>& layers) {
  require(inputs > 0 && inputs <= 2 * kMaxWidth, "a network takes 1 to 2048 values");
  require(layers.size() <= kMaxLayers, "a network has at most 32 layers");
  int width = inputs, widest = 1;
  std::size_t floats = 0;
  for (const LayerArrays& layer : layers) {
    require(layer.outputs > 0 && layer.outputs <= kMaxWidth, "a layer gives 1 to 1024 values");
    require(layer.inputs == width + (layer.skip ? inputs : 0),
            "a layer does not take what the one before it gives");
    require(layer.activation >= 0 && layer.activation <= static_cast<int>(Activation::kSoftmax),
            "there is no such activation");
    width = layer.outputs;
    widest = std::max(widest, width);
    floats += static_cast<std::size_t>(layer.inputs + 1) * layer.outputs;
  }
  float* next = values_.resize_uncleared(std::max<std::size_t>(floats, 1));
  layers_.reserve(layers.size());
  for (const LayerArrays& layer : layers) {
    float* const weights = next;
    pack_weights(layer.weight, layer.outputs, layer.inputs, weights);
    float* const bias = weights + static_cast<std::size_t>(layer.inputs) * layer.outputs;
    std::memcpy(bias, layer.bias, sizeof(float) * layer.outputs);
    next = bias + layer.outputs;
    layers_.push_back({weights, bias, layer.inputs, layer.outputs,
                       static_cast<Activation>(layer.activation), layer.skip});
  }
  view_ = {inputs, width, widest, static_cast<int>(layers_.size()), layers_.data()};
}

}  // namespace belvedere::neural
