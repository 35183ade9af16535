// A network's weights in the order in which the kernels read them.
#pragma once

#include <vector>

#include "buffer.h"
#include "types.h"

namespace belvedere::neural {

// A layer as files hold it: `weight` [outputs][inputs], `bias` [outputs].
struct LayerArrays {
  const float* weight;
  const float* bias;
  int inputs, outputs;
  int activation;
  bool skip;
};

class PackedMlp {
 public:
  // Copies everything. Throws std::invalid_argument if the layers do not fit each other.
  PackedMlp(int inputs, const std::vector<LayerArrays>& layers);
  PackedMlp(const PackedMlp&) = delete;
  PackedMlp& operator=(const PackedMlp&) = delete;

  // Valid as long as this object.
  const MlpView& view() const { return view_; }
  std::size_t bytes() const { return values_.bytes(); }

 private:
  Buffer<float> values_;
  std::vector<LayerView> layers_;
  MlpView view_{};
};

}  // namespace belvedere::neural
