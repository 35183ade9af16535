// A radiance field's network as the kernels take it.
#pragma once

#include <memory>
#include <vector>

#include "encoding_pack.h"
#include "mlp_pack.h"
#include "types.h"

namespace belvedere::neural {

// splat.fields.Network; networks and encodings that are not there are null.
struct NetworkParts {
  int contraction;
  bool bounded;
  std::shared_ptr<PackedEncoding> position;
  std::shared_ptr<PackedMlp> trunk, density_head, feature_head;
  int density_column;
  int density_activation;
  float density_bias;
  int feature_first, feature_end;  // 0 for all
  std::shared_ptr<PackedEncoding> direction;
  std::shared_ptr<PackedMlp> color;
  std::vector<int> color_inputs;
  std::vector<float> appearance;
  std::shared_ptr<PackedEncoding> grid_position;
  std::shared_ptr<PackedMlp> grid_basis;
  std::shared_ptr<PackedEncoding> grid_encoding;
};

class PackedNetwork {
 public:
  // Throws std::invalid_argument if the parts do not fit each other.
  explicit PackedNetwork(NetworkParts parts);
  PackedNetwork(const PackedNetwork&) = delete;
  PackedNetwork& operator=(const PackedNetwork&) = delete;

  // Valid as long as this object.
  const NetworkView& view() const { return view_; }
  std::size_t bytes() const;

 private:
  void add_color();

  NetworkParts parts_;
  NetworkView view_{};
};

}  // namespace belvedere::neural
