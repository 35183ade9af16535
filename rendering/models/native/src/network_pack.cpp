#include "network_pack.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "arguments.h"

namespace belvedere::neural {
namespace {

// One without layers, which passes on what it gets.
MlpView passing(int width) { return {width, width, 0, 0, nullptr}; }

MlpView view_or_passing(const std::shared_ptr<PackedMlp>& mlp, int width) {
  return mlp ? mlp->view() : passing(width);
}

}  // namespace

PackedNetwork::PackedNetwork(NetworkParts parts) : parts_(std::move(parts)) {
  const NetworkParts& p = parts_;
  require(p.contraction >= 0 && p.contraction <= 2, "there is no such contraction");
  require(p.density_activation >= 0 &&
              p.density_activation < static_cast<int>(Activation::kSoftmax),
          "there is no such activation of densities");
  require(p.position != nullptr, "a network needs an encoding");
  const bool takes_features = p.position->view().inputs != 3;
  require(!takes_features || p.position->view().kind == EncodingKind::kIdentity,
          "positions have three coordinates");
  require(!takes_features || (p.contraction == 0 && !p.bounded && !p.grid_position),
          "features are in no space");
  view_.contraction = static_cast<Contraction>(p.contraction);
  view_.bounded = p.bounded;
  view_.position = p.position->view();
  view_.trunk = view_or_passing(p.trunk, view_.position.outputs);
  require(view_.trunk.inputs == view_.position.outputs, "the trunk does not fit the encoding");
  view_.density_head = view_or_passing(p.density_head, view_.trunk.outputs);
  require(view_.density_head.inputs == view_.trunk.outputs, "the density does not fit the trunk");
  require(p.density_column >= 0 && p.density_column < view_.density_head.outputs,
          "the density's head has no such column");
  require(std::isfinite(p.density_bias), "the density's bias is not finite");
  view_.density_column = p.density_column;
  view_.density_activation = static_cast<Activation>(p.density_activation);
  view_.density_bias = p.density_bias;
  view_.scratch_rows = 3 + view_.position.outputs + view_.trunk.outputs + view_.density_head.outputs;
  view_.widest = std::max(view_.trunk.widest, view_.density_head.widest);
  if (p.color) add_color();
  view_.scratch_rows += 2 * static_cast<std::size_t>(view_.widest);
}

void PackedNetwork::add_color() {
  const NetworkParts& p = parts_;
  view_.has_color = true;
  view_.color = p.color->view();
  require(view_.color.outputs == 3, "colours have three channels");
  require(p.color_inputs.size() <= kMaxColorInputs, "a colour of too many inputs");
  view_.feature_head = view_or_passing(p.feature_head, view_.trunk.outputs);
  require(view_.feature_head.inputs == view_.trunk.outputs, "the features do not fit the trunk");
  const int end = p.feature_end ? p.feature_end : view_.feature_head.outputs;
  require(p.feature_first >= 0 && p.feature_first <= end && end <= view_.feature_head.outputs,
          "the features' head has no such columns");
  view_.feature_first = p.feature_first;
  view_.feature_count = end - p.feature_first;
  require(p.direction && p.direction->view().inputs == 3, "directions have three coordinates");
  view_.direction = p.direction->view();
  view_.appearance = p.appearance.data();
  view_.appearance_width = static_cast<int>(p.appearance.size());
  int grid_width = 0;
  if (p.grid_position) {
    require(p.grid_position->view().inputs == 3, "positions have three coordinates");
    view_.has_grid = true;
    view_.grid_position = p.grid_position->view();
    view_.grid_basis = view_or_passing(p.grid_basis, view_.grid_position.outputs);
    require(view_.grid_basis.inputs == view_.grid_position.outputs, "the basis does not fit");
    grid_width = view_.grid_basis.outputs;
    view_.scratch_rows += view_.grid_position.outputs + grid_width;
    if (p.grid_encoding) {
      view_.has_grid_encoding = true;
      view_.grid_encoding = p.grid_encoding->view();
      require(view_.grid_encoding.inputs == grid_width, "the grid's encoding does not fit");
      grid_width = view_.grid_encoding.outputs;
      view_.scratch_rows += grid_width;
    }
  }
  const int widths[] = {view_.feature_count, view_.direction.outputs, view_.position.outputs,
                        view_.appearance_width, grid_width};
  int width = 0, times_seen[5] = {};
  for (const int input : p.color_inputs) {
    require(input >= 0 && input < 5 && ++times_seen[input] == 1, "no such input of a colour");
    require(input != static_cast<int>(ColorInput::kGrid) || view_.has_grid, "a colour of no grid");
    view_.color_inputs[view_.color_input_count++] = static_cast<ColorInput>(input);
    width += widths[input];
  }
  require(width == view_.color.inputs, "the colour's network is not as wide as its inputs");
  view_.scratch_rows += width + view_.feature_head.outputs;
  view_.widest = std::max({view_.widest, view_.color.widest, view_.feature_head.widest,
                           view_.grid_basis.widest});
}

std::size_t PackedNetwork::bytes() const {
  std::size_t sum = 0;
  for (const auto* mlp : {&parts_.trunk, &parts_.density_head, &parts_.feature_head,
                          &parts_.color, &parts_.grid_basis}) {
    if (*mlp) sum += (*mlp)->bytes();
  }
  return sum;
}

}  // namespace belvedere::neural
