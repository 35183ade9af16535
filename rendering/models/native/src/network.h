// A radiance field's network over a block of samples, from positions to densities and colours
// (splat/fields.py): nothing in between leaves the core's own cache.
//
// Included inside kernels.cpp, which is compiled once for each instruction set.
#pragma once

#include "encodings.h"
#include "mlp.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

using neural::ColorInput;
using neural::Contraction;
using neural::NetworkView;

// Rows of scratch, handed out one after the other.
class Rows {
 public:
  explicit Rows(float* next) : next_(next) {}
  float* take(int count) {
    float* rows = next_;
    next_ += static_cast<std::ptrdiff_t>(count) * kBlock;
    return rows;
  }

 private:
  float* next_;
};

// Positions in the cube that encodings take (Barron et al. 2022, equation 10, and FieldSpace).
inline void contract(Contraction contraction, const float* in, float* out) {
  if (contraction == Contraction::kNone) {
    std::memcpy(out, in, sizeof(float) * 3 * kBlock);
    return;
  }
  for (int s = 0; s < kBlock; s += kLanes) {
    VF y[3];
    for (int d = 0; d < 3; ++d) y[d] = load(in + d * kBlock + s);
    const VF norm = contraction == Contraction::kL2
                        ? sqrt(y[0] * y[0] + y[1] * y[1] + y[2] * y[2])
                        : max(max(abs(y[0]), abs(y[1])), abs(y[2]));
    const VF inverse = 1.0f / max(norm, splat(1.0f));
    const VF scale = (2.0f - inverse) * inverse;  // 1 within the ball
    for (int d = 0; d < 3; ++d) store(out + d * kBlock + s, fma(y[d], scale, splat(2.0f)) * 0.25f);
  }
}

// Sets densities to 0 outside [0, 1]³, and where a position or the density is no number.
inline void bound(const float* positions, bool bounded, float* densities) {
  const VF largest = splat(3.4028235e38f);
  for (int s = 0; s < kBlock; s += kLanes) {
    const VF v = load(densities + s);
    Mask kept = both(greater_equal(v, VF{}), greater_equal(largest, v));
    for (int d = 0; bounded && d < 3; ++d) {
      const VF x = load(positions + d * kBlock + s);
      kept = both(kept, both(greater_equal(x, VF{}), greater_equal(splat(1.0f), x)));
    }
    store(densities + s, keep(kept, v));
  }
}

// `in` itself for a network without layers.
inline const float* through(const MlpView& mlp, const float* in, Rows& rows, float* scratch) {
  if (mlp.layer_count == 0) return in;
  float* out = rows.take(mlp.outputs);
  mlp_block(mlp, in, out, scratch);
  return out;
}

inline const float* encoded(const EncodingView& encoding, const float* in, Rows& rows) {
  float* out = rows.take(encoding.outputs);
  encode_block(encoding, in, out);
  return out;
}

// The colour's input "grid".
inline const float* color_grid(const NetworkView& n, const float* position, Rows& rows,
                               float* scratch) {
  const float* values = encoded(n.grid_position, position, rows);
  values = through(n.grid_basis, values, rows, scratch);
  return n.has_grid_encoding ? encoded(n.grid_encoding, values, rows) : values;
}

// All that the colour's network is given, in order.
inline const float* color_input(const NetworkView& n, const float* position, const float* code,
                                const float* hidden, const float* directions, Rows& rows,
                                float* scratch) {
  float* const input = rows.take(n.color.inputs);
  float* next = input;
  const auto put = [&next](const float* values, int count) {
    std::memcpy(next, values, sizeof(float) * kBlock * count);
    next += static_cast<std::ptrdiff_t>(count) * kBlock;
  };
  for (int i = 0; i < n.color_input_count; ++i) {
    switch (n.color_inputs[i]) {
      case ColorInput::kFeature: {
        const float* features = through(n.feature_head, hidden, rows, scratch);
        put(features + n.feature_first * kBlock, n.feature_count);
        break;
      }
      case ColorInput::kDirection:
        encode_block(n.direction, directions, next);
        next += n.direction.outputs * kBlock;
        break;
      case ColorInput::kPosition:
        put(code, n.position.outputs);
        break;
      case ColorInput::kAppearance:
        for (int k = 0; k < n.appearance_width; ++k, next += kBlock) {
          for (int s = 0; s < kBlock; s += kLanes) store(next + s, splat(n.appearance[k]));
        }
        break;
      case ColorInput::kGrid: {
        const MlpView& basis = n.grid_basis;
        put(color_grid(n, position, rows, scratch),
            n.has_grid_encoding ? n.grid_encoding.outputs : basis.outputs);
        break;
      }
    }
  }
  return input;
}

inline bool any_density(const float* densities) {
  bool found = false;
  for (int s = 0; s < kBlock; s += kLanes) found |= any(greater(load(densities + s), VF{}));
  return found;
}

// See types.h, Kernels::evaluate. A network that takes features in the place of positions has
// neither bounds nor a contraction, and no grid of colours.
inline void evaluate_block(const NetworkView& n, const float* positions, const float* directions,
                           float* densities, float* colors, float* scratch) {
  Rows rows(scratch);
  float* const layers = rows.take(2 * n.widest);
  const float* position = positions;
  if (n.contraction != Contraction::kNone) {
    float* contracted = rows.take(3);
    contract(n.contraction, positions, contracted);
    position = contracted;
  }
  const float* const code = encoded(n.position, position, rows);
  const float* const hidden = through(n.trunk, code, rows, layers);
  const float* const head = through(n.density_head, hidden, rows, layers);
  for (int s = 0; s < kBlock; s += kLanes) {
    const VF raw = load(head + n.density_column * kBlock + s) + n.density_bias;
    store(densities + s, activated(n.density_activation, raw));
  }
  bound(position, n.bounded, densities);
  if (!directions) return;
  // Where there is nothing the colour is black, so that a block of nothing needs no colours.
  if (!any_density(densities)) {
    std::memset(colors, 0, sizeof(float) * 3 * kBlock);
    return;
  }
  const float* const input = color_input(n, position, code, hidden, directions, rows, layers);
  mlp_block(n.color, input, colors, layers);
  for (int s = 0; s < kBlock; s += kLanes) {
    const Mask dense = greater(load(densities + s), VF{});
    for (int c = 0; c < 3; ++c) {
      store(colors + c * kBlock + s, keep(dense, load(colors + c * kBlock + s)));
    }
  }
}

inline void opacities(float* depths, std::size_t count) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(depths + i, opacity(load(depths + i)));
  if (i == count) return;
  alignas(64) float rest[kLanes] = {};
  std::memcpy(rest, depths + i, sizeof(float) * (count - i));
  store(rest, opacity(load(rest)));
  std::memcpy(depths + i, rest, sizeof(float) * (count - i));
}

}  // namespace belvedere::BELVEDERE_ISA
