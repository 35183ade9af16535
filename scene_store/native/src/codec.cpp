// Chunks as bytes: the Python face of compact.h, and the lossless profile. Compression itself
// (Zstandard) is done by the caller.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <bit>
#include <tuple>

#include "bindings.h"
#include "compact.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using ConstFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;


// ---- The lossless profile: the bits of each value ------------------------------------------

template <typename Float>
struct FloatColumn {
  Float* first;
  std::size_t stride;
};

template <typename Float>
std::vector<FloatColumn<Float>> geometry_columns(const GaussianView<Float>& g) {
  std::vector<FloatColumn<Float>> columns;
  for (std::size_t i = 0; i < 3; ++i) columns.push_back({g.means + i, 3});
  for (std::size_t i = 0; i < 4; ++i) columns.push_back({g.quats + i, 4});
  for (std::size_t i = 0; i < 3; ++i) columns.push_back({g.scales + i, 3});
  columns.push_back({g.opacities, 1});
  for (std::size_t i = 0; i < 3; ++i) columns.push_back({g.sh + i, 3 * g.bases});
  return columns;
}

template <typename Float>
std::vector<FloatColumn<Float>> sh_columns(const GaussianView<Float>& g) {
  std::vector<FloatColumn<Float>> columns;
  for (std::size_t i = 3; i < 3 * g.bases; ++i) columns.push_back({g.sh + i, 3 * g.bases});
  return columns;
}

RawStream pack_bits(std::size_t count, const std::vector<FloatColumn<const float>>& floats) {
  ColumnWriter columns(count, floats.size(), 4);
  std::vector<std::uint32_t> bits(count);
  for (const auto& column : floats) {
    for (std::size_t i = 0; i < count; ++i) {
      bits[i] = std::bit_cast<std::uint32_t>(column.first[column.stride * i]);
    }
    columns.put(bits.data());
  }
  return {"", columns.widths(), columns.planes()};
}

void unpack_bits(std::size_t count, const ColumnReader& columns,
                 const std::vector<FloatColumn<float>>& floats) {
  require(columns.columns() == floats.size(), "it has the wrong number of columns");
  constexpr std::uint32_t kExponent = 0x7f800000;  // all ones: infinity or not a number
  constexpr std::size_t kRows = 64;
  std::uint32_t bits[kRows];
  bool finite = true;
  for (std::size_t start = 0; start < count; start += kRows) {
    const std::size_t size = std::min(kRows, count - start);
    for (std::size_t c = 0; c < floats.size(); ++c) {
      columns.get(c, start, size, bits);
      float* to = floats[c].first + floats[c].stride * start;
      for (std::size_t i = 0; i < size; ++i) {
        finite &= (bits[i] & kExponent) != kExponent;
        to[floats[c].stride * i] = std::bit_cast<float>(bits[i]);
      }
    }
  }
  require(finite, "a value is not finite");
}

void require_positive_scales(const MutableGaussians& g) {
  const float* end = g.scales + 3 * g.count;
  require(std::all_of(static_cast<const float*>(g.scales), end, [](float s) { return s > 0; }), "a scale is not positive");
}

// ---- Python --------------------------------------------------------------------------------

template <typename Array>
auto view(const Array& means, const Array& quats, const Array& scales, const Array& opacities,
          const Array& sh) -> GaussianView<std::remove_pointer_t<decltype(means.data())>> {
  require(means.ndim() == 2 && means.shape(1) == 3, "means must be [N, 3]");
  const std::size_t count = means.shape(0);
  require(quats.ndim() == 2 && quats.shape(0) == count && quats.shape(1) == 4,
          "quats must be [N, 4]");
  require(scales.ndim() == 2 && scales.shape(0) == count && scales.shape(1) == 3,
          "scales must be [N, 3]");
  require(opacities.ndim() == 1 && opacities.shape(0) == count, "opacities must be [N]");
  require(sh.ndim() == 3 && sh.shape(0) == count && sh.shape(2) == 3, "sh must be [N, K, 3]");
  const std::size_t bases = sh.shape(1);
  require(bases == 1 || bases == 4 || bases == 9 || bases == 16, "sh must hold 1, 4, 9 or 16 bases");
  return {count, bases, means.data(), quats.data(), scales.data(), opacities.data(), sh.data()};
}

using PackedStream = std::tuple<nb::bytes, nb::bytes, nb::bytes>;

PackedStream to_python(const RawStream& raw) {
  const auto bytes = [](const std::string& s) { return nb::bytes(s.data(), s.size()); };
  return {bytes(raw.parameters), bytes(raw.widths), bytes(raw.planes)};
}

std::string_view text(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

PackedStream pack(bool is_sh, bool lossless, const ConstFloats& means, const ConstFloats& quats,
                  const ConstFloats& scales, const ConstFloats& opacities, const ConstFloats& sh,
                  const std::tuple<double, double, double, double, double, double>& steps) {
  const ConstGaussians g = view(means, quats, scales, opacities, sh);
  require(g.count > 0, "a chunk holds at least one Gaussian");
  const auto [mean, log_scale, quat, log_opacity, color, rest] = steps;
  require(mean > 0 && log_scale > 0 && quat > 0 && log_opacity > 0 && color > 0 && rest > 0,
          "steps must be positive");
  const CompactSteps compact{mean, log_scale, quat, log_opacity, color, rest};
  RawStream raw;
  {
    nb::gil_scoped_release release;
    if (lossless) {
      raw = pack_bits(g.count, is_sh ? sh_columns(g) : geometry_columns(g));
    } else {
      raw = is_sh ? pack_compact_sh(g, compact) : pack_compact_geometry(g, compact);
    }
  }
  return to_python(raw);
}

void unpack(bool is_sh, bool lossless, const nb::bytes& parameters, const nb::bytes& widths,
            const nb::bytes& planes, const Floats& means, const Floats& quats,
            const Floats& scales, const Floats& opacities, const Floats& sh) {
  const MutableGaussians out = view(means, quats, scales, opacities, sh);
  const std::string_view parameter_text = text(parameters), width_text = text(widths);
  const std::string_view plane_text = text(planes);
  nb::gil_scoped_release release;
  const ColumnReader columns(out.count, width_text, plane_text);
  if (lossless) {
    require(parameter_text.empty(), "its parameters are too long");
    unpack_bits(out.count, columns, is_sh ? sh_columns(out) : geometry_columns(out));
    if (!is_sh) require_positive_scales(out);
  } else if (is_sh) {
    unpack_compact_sh(parameter_text, columns, out);
  } else {
    unpack_compact_geometry(parameter_text, columns, out);
  }
}

}  // namespace

void bind_codec(nb::module_& m) {
  m.def("pack_stream", &pack, "is_sh"_a, "lossless"_a, "means"_a, "quats"_a, "scales"_a,
        "opacities"_a, "sh"_a, "steps"_a,
        "One stream of a chunk before compression: parameters, widths and byte planes.");
  m.def("unpack_stream", &unpack, "is_sh"_a, "lossless"_a, "parameters"_a, "widths"_a, "planes"_a,
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "sh"_a.noconvert(),
        "Fills the arrays from a stream: all of them but the harmonics above degree 0, or these.");
}

}  // namespace belvedere::store
