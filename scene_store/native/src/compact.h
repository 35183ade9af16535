// The compact profile: quantized Gaussians as columns of small integers. docs/format.md
// specifies it to the byte; tests/store/ has a second decoder, in numpy, written from that text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "columns.h"

namespace belvedere::store {

// N Gaussians as arrays in C order: means [N, 3], quats [N, 4], scales [N, 3], opacities [N],
// sh [N, bases, 3].
template <typename Float>
struct GaussianView {
  std::size_t count, bases;
  Float *means, *quats, *scales, *opacities, *sh;
};

using ConstGaussians = GaussianView<const float>;
using MutableGaussians = GaussianView<float>;

// A stream before compression.
struct RawStream {
  std::string parameters, widths, planes;
};

// Finest useful steps; coarser ones are taken where a chunk's range is extreme.
struct CompactSteps {
  double mean;       // of the standard deviation that nine in ten Gaussians exceed
  double log_scale;  // nats
  double quat;       // of x, y and z, where w is the largest component
  double log_opacity;
  double color;  // of the degree-0 coefficients
  double sh;     // of the others
};

constexpr std::size_t kGeometryColumns = 13;

RawStream pack_compact_geometry(const ConstGaussians& g, const CompactSteps& steps);
RawStream pack_compact_sh(const ConstGaussians& g, const CompactSteps& steps);

// Throw std::invalid_argument if the columns do not hold what they should.
void unpack_compact_geometry(std::string_view parameters, const ColumnReader& columns,
                             const MutableGaussians& out);
void unpack_compact_sh(std::string_view parameters, const ColumnReader& columns,
                       const MutableGaussians& out);

}  // namespace belvedere::store
