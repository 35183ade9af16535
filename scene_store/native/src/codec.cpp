// Chunks as bytes: the Python face of compact.h, and the lossless profile. Compression itself
// (Zstandard) is done by the caller. Streams are decoded many at a time: a small chunk takes
// less time than a wait for the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <tuple>

#include "bindings.h"
#include "compact.h"
#include "crc32.h"
#include "streams.h"

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
  const bool positive = std::all_of(static_cast<const float*>(g.scales), end,
                                    [](float s) { return s > 0; });
  require(positive, "a scale is not positive");
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

// The memory of Python objects that hold bytes, for as long as this lives.
class ByteViews {
 public:
  explicit ByteViews(const nb::sequence& objects) {
    const std::size_t size = nb::len(objects);
    views_.reserve(size);
    for (std::size_t i = 0; i < size; ++i) {
      Py_buffer view;
      if (PyObject_GetBuffer(nb::object(objects[i]).ptr(), &view, PyBUF_SIMPLE) != 0) {
        release();
        throw nb::python_error();
      }
      views_.push_back(view);
    }
  }
  ~ByteViews() { release(); }
  ByteViews(const ByteViews&) = delete;
  ByteViews& operator=(const ByteViews&) = delete;

  std::size_t size() const { return views_.size(); }
  std::string_view operator[](std::size_t i) const {
    return {static_cast<const char*>(views_[i].buf), static_cast<std::size_t>(views_[i].len)};
  }

 private:
  void release() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
    views_.clear();
  }
  std::vector<Py_buffer> views_;
};

using Rows = nb::ndarray<const std::int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Problems = std::vector<std::optional<std::string>>;

// What goes wrong with one stream is told, and the others go on.
template <typename Work>
Problems one_by_one(std::size_t count, const Work& work) {
  Problems problems(count);
  for (std::size_t i = 0; i < count; ++i) {
    try {
      work(i);
    } catch (const std::invalid_argument& error) {
      problems[i] = error.what();
    }
  }
  return problems;
}

using Checksums = nb::ndarray<std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void checksums(const nb::sequence& streams, const Checksums& out) {
  const ByteViews views(streams);
  require(out.size() == views.size(), "a checksum for each stream");
  nb::gil_scoped_release release;
  for (std::size_t i = 0; i < views.size(); ++i) {
    const std::string_view bytes = views[i];
    out.data()[i] = crc32(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  }
}

void require_rows(const Rows& rows, std::size_t streams, std::size_t most) {
  require(rows.shape(0) == streams, "rows for each stream");
  for (std::size_t i = 0; i < streams; ++i) {
    const std::int64_t first = rows.data()[2 * i], count = rows.data()[2 * i + 1];
    require(first >= 0 && count > 0 && static_cast<std::size_t>(count) <= most &&
                static_cast<std::size_t>(first) <= most - static_cast<std::size_t>(count),
            "rows beyond the arrays");
  }
}

ExpectedStream expected_stream(bool is_sh, int degree, const Rows& rows, std::size_t i) {
  return {is_sh, static_cast<std::size_t>(rows.data()[2 * i + 1]), is_sh ? degree : 0};
}

Problems inspect(bool is_sh, int degree, const nb::sequence& streams, const Rows& rows,
                 const nb::ndarray<std::uint64_t, nb::shape<-1, 2>, nb::c_contig,
                                   nb::device::cpu>& frames) {
  const ByteViews views(streams);
  require_rows(rows, views.size(), std::numeric_limits<std::uint32_t>::max());
  require(frames.shape(0) == views.size(), "a frame for each stream");
  require(degree >= 0 && degree <= 3, "the degree is 0 to 3");
  nb::gil_scoped_release release;
  return one_by_one(views.size(), [&](std::size_t i) {
    const StreamLayout layout = read_layout(views[i], expected_stream(is_sh, degree, rows, i));
    frames.data()[2 * i] = layout.frame_offset;
    frames.data()[2 * i + 1] = layout.raw_bytes;
  });
}

MutableGaussians part(const MutableGaussians& g, std::size_t first, std::size_t count) {
  return {count,
          g.bases,
          g.means + 3 * first,
          g.quats + 4 * first,
          g.scales + 3 * first,
          g.opacities + first,
          g.sh + 3 * g.bases * first};
}

void unpack_stream(bool is_sh, const StreamLayout& layout, std::string_view planes,
                   const MutableGaussians& out) {
  const ColumnReader columns(out.count, layout.widths, planes);
  if (layout.lossless) {
    unpack_bits(out.count, columns, is_sh ? sh_columns(out) : geometry_columns(out));
    if (!is_sh) require_positive_scales(out);
  } else if (is_sh) {
    unpack_compact_sh(layout.parameters, columns, out);
  } else {
    unpack_compact_geometry(layout.parameters, columns, out);
  }
}

Problems unpack(bool is_sh, const nb::sequence& streams, const nb::sequence& planes,
                const Rows& rows, const Floats& means, const Floats& quats, const Floats& scales,
                const Floats& opacities, const Floats& sh) {
  const MutableGaussians out = view(means, quats, scales, opacities, sh);
  const ByteViews views(streams), raw(planes);
  require(raw.size() == views.size(), "planes for each stream");
  require_rows(rows, views.size(), out.count);
  const int degree = out.bases == 1 ? 0 : out.bases == 4 ? 1 : out.bases == 9 ? 2 : 3;
  nb::gil_scoped_release release;
  return one_by_one(views.size(), [&](std::size_t i) {
    const ExpectedStream expected = expected_stream(is_sh, degree, rows, i);
    const StreamLayout layout = read_layout(views[i], expected);
    const auto first = static_cast<std::size_t>(rows.data()[2 * i]);
    try {
      unpack_stream(is_sh, layout, raw[i], part(out, first, expected.count));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string("its ") + (is_sh ? "harmonics" : "geometry") +
                                  " is damaged: " + error.what());
    }
  });
}

}  // namespace

void bind_codec(nb::module_& m) {
  m.def("pack_stream", &pack, "is_sh"_a, "lossless"_a, "means"_a, "quats"_a, "scales"_a,
        "opacities"_a, "sh"_a, "steps"_a,
        "One stream of a chunk before compression: parameters, widths and byte planes.");
  m.def("checksums", &checksums, "streams"_a, "out"_a.noconvert(), "CRC-32 of each stream.");
  m.def("inspect_streams", &inspect, "is_sh"_a, "degree"_a, "streams"_a, "rows"_a,
        "frames"_a.noconvert(),
        "Where the Zstandard frame of each stream begins, and how many bytes it holds. Returns "
        "what is wrong with each, or None.");
  m.def("unpack_streams", &unpack, "is_sh"_a, "streams"_a, "planes"_a, "rows"_a,
        "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "sh"_a.noconvert(),
        "Fills rows of the arrays from streams: all of them but the harmonics above degree 0, or "
        "these. Returns what is wrong with each, or None.");
}

}  // namespace belvedere::store
