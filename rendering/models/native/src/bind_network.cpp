// Encodings and whole networks of radiance fields.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <utility>

#include "arrays.h"
#include "blocks.h"
#include "encoding_pack.h"
#include "network_pack.h"

namespace belvedere::neural {
namespace {

using namespace nb::literals;
using EncodingPointer = std::shared_ptr<PackedEncoding>;
using MlpPointer = std::shared_ptr<PackedMlp>;

using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using LevelTuple = std::tuple<double, std::int64_t, bool, std::int64_t, std::int64_t>;
using FloatCube = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Window = std::tuple<int, int, int, int>;

EncodingPointer frequencies(const std::vector<double>& radians, int dims, bool input_first,
                            bool input_last, bool by_dimension) {
  return PackedEncoding::frequencies(radians, {dims, input_first, input_last, by_dimension});
}

EncodingPointer hash_grid(const std::vector<LevelTuple>& levels, const AnyMatrix& table,
                          double shift) {
  std::vector<GridLevel> grid_levels;
  for (const auto& [scale, resolution, hashed, entries, first] : levels) {
    grid_levels.push_back({scale, resolution, entries, first, hashed});
  }
  const bool half = table.dtype() == nb::dlpack::dtype{2, 16, 1};  // code 2: floats
  require(half || table.dtype() == nb::dtype<float>(), "a table is of float16 or float32");
  require(table.shape(1) <= 64, "a hash grid has 1 to 64 features a level");
  require(table.shape(0) <= std::size_t{1} << 31, "a hash grid has 1 to 2^31 entries");
  return PackedEncoding::hash_grid(grid_levels,
                                   {table.data(), static_cast<std::int64_t>(table.shape(0)),
                                    static_cast<int>(table.shape(1)), half},
                                   shift, std::make_shared<AnyMatrix>(table));
}

int side(std::size_t size) {
  require(size <= 1u << 24, "a plane of absurd size");
  return static_cast<int>(size);
}

// Lines of no values stand for none.
EncodingPointer planes(const std::vector<FloatCube>& planes, const std::vector<FloatMatrix>& lines,
                       const std::vector<std::tuple<int, int, int>>& axes,
                       const std::vector<Window>& windows, int dims, bool summed) {
  require(planes.size() == lines.size() && planes.size() == axes.size() &&
              planes.size() == windows.size(),
          "planes, lines, axes and windows are not equally many");
  std::vector<PlaneView> views(planes.size());
  for (std::size_t i = 0; i < planes.size(); ++i) {
    PlaneView& view = views[i];
    view.plane = planes[i].data();
    view.channels = side(planes[i].shape(0));
    view.height = side(planes[i].shape(1));
    view.width = side(planes[i].shape(2));
    if (lines[i].shape(0) > 0) {
      require(lines[i].shape(0) == planes[i].shape(0), "a line has not its plane's channels");
      view.line = lines[i].data();
      view.length = side(lines[i].shape(1));
    }
    std::tie(view.axes[0], view.axes[1], view.axes[2]) = axes[i];
    std::tie(view.whole_width, view.whole_height, view.column, view.row) = windows[i];
  }
  using Arrays = std::pair<std::vector<FloatCube>, std::vector<FloatMatrix>>;
  return PackedEncoding::planes(std::move(views), dims, summed,
                                std::make_shared<Arrays>(planes, lines));
}

void encode(const PackedEncoding& encoding, const FloatMatrix& in, const MutableMatrix& out,
            const std::string& isa, int threads) {
  const EncodingView& view = encoding.view();
  const Kernels& kernels = kernels_named(isa);
  const std::size_t samples = in.shape(1);
  require(in.shape(0) == static_cast<std::size_t>(view.inputs), "the input has the wrong width");
  require(out.shape(0) == static_cast<std::size_t>(view.outputs) && out.shape(1) == samples,
          "the output has the wrong shape");
  threads = thread_count(threads);
  nb::gil_scoped_release release;
  for_blocks(samples, threads, view.inputs + view.outputs, [&](std::size_t first, float* scratch) {
    float* const result = scratch + view.inputs * kBlock;
    load_block(in.data(), samples, view.inputs, first, scratch);
    kernels.encode(view, scratch, result);
    store_block(result, view.outputs, samples, first, out.data());
  });
}

using ColorParts = std::tuple<EncodingPointer, MlpPointer, std::vector<int>, std::vector<float>>;
using GridParts = std::tuple<EncodingPointer, MlpPointer, EncodingPointer>;

void new_network(PackedNetwork* self, int contraction, bool bounded, EncodingPointer position,
                 std::tuple<MlpPointer, MlpPointer, MlpPointer> mlps,
                 std::tuple<int, int, float> density, std::tuple<int, int> features,
                 ColorParts color, GridParts grid) {
  NetworkParts parts{};
  parts.contraction = contraction;
  parts.bounded = bounded;
  parts.position = std::move(position);
  std::tie(parts.trunk, parts.density_head, parts.feature_head) = std::move(mlps);
  std::tie(parts.density_column, parts.density_activation, parts.density_bias) = density;
  std::tie(parts.feature_first, parts.feature_end) = features;
  std::tie(parts.direction, parts.color, parts.color_inputs, parts.appearance) = std::move(color);
  std::tie(parts.grid_position, parts.grid_basis, parts.grid_encoding) = std::move(grid);
  new (self) PackedNetwork(std::move(parts));
}

struct Outputs {
  float* densities;
  float* colors;  // null for densities alone
  std::size_t samples;
};

Outputs outputs_of(const PackedNetwork& network, std::size_t samples,
                   const MutableVector& densities, const std::optional<MutableMatrix>& colors) {
  require(densities.shape(0) == samples, "densities must be [M]");
  if (!colors) return {densities.data(), nullptr, samples};
  require(network.view().has_color, "the network gives no colours");
  require(colors->shape(0) == 3 && colors->shape(1) == samples, "colours must be [3, M]");
  return {densities.data(), colors->data(), samples};
}

// Calls fill(first, count, positions, directions) for every block and evaluates it.
template <typename Fill>
void evaluate_blocks(const NetworkView& view, const Kernels& kernels, int threads,
                     const Outputs& out, const Fill& fill) {
  constexpr int kRows = 7;  // directions, density, colour
  const int inputs = view.position.inputs;
  for_blocks(out.samples, threads, kRows + inputs + view.scratch_rows,
             [&](std::size_t first, float* scratch) {
               float* const directions = out.colors ? scratch : nullptr;
               float* const densities = scratch + 3 * kBlock;
               float* const colors = scratch + 4 * kBlock;
               float* const positions = scratch + kRows * kBlock;
               fill(first, positions, directions);
               kernels.evaluate(view, positions, directions, densities, colors,
                                positions + static_cast<std::ptrdiff_t>(inputs) * kBlock);
               store_block(densities, 1, out.samples, first, out.densities);
               if (out.colors) store_block(colors, 3, out.samples, first, out.colors);
             });
}

void evaluate(const PackedNetwork& network, const FloatMatrix& positions,
              const std::optional<FloatMatrix>& directions, const MutableVector& densities,
              const std::optional<MutableMatrix>& colors, const std::string& isa, int threads) {
  const std::size_t samples = positions.shape(1);
  const int inputs = network.view().position.inputs;
  require(positions.shape(0) == static_cast<std::size_t>(inputs),
          "positions must be [3, M], or as many features");
  require(directions.has_value() == colors.has_value(), "colours need directions");
  require(!directions || (directions->shape(0) == 3 && directions->shape(1) == samples),
          "directions must be [3, M]");
  const Outputs out = outputs_of(network, samples, densities, colors);
  const Kernels& kernels = kernels_named(isa);
  threads = thread_count(threads);
  nb::gil_scoped_release release;
  evaluate_blocks(network.view(), kernels, threads, out,
                  [&](std::size_t first, float* block, float* block_directions) {
                    load_block(positions.data(), samples, inputs, first, block);
                    if (block_directions) {
                      load_block(directions->data(), samples, 3, first, block_directions);
                    }
                  });
}

struct SampledRays {
  const float* origins;
  const float* directions;
  const float* views;
  std::size_t rays;
  const std::int32_t* ray;
  const float* t;
};

// Positions, and if wanted directions, of a block of samples. What is missing are zeros.
void fill_block(const SampledRays& rays, std::size_t first, std::size_t count, float* positions,
                float* directions) {
  for (int d = 0; d < 3; ++d) {
    const float* o = rays.origins + d * rays.rays;
    const float* v = rays.directions + d * rays.rays;
    float* row = positions + d * kBlock;
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t r = rays.ray[first + i];
      row[i] = o[r] + rays.t[first + i] * v[r];
    }
    std::fill(row + count, row + kBlock, 0.0f);
    if (!directions) continue;
    const float* view = rays.views + d * rays.rays;
    row = directions + d * kBlock;
    for (std::size_t i = 0; i < count; ++i) row[i] = view[rays.ray[first + i]];
    std::fill(row + count, row + kBlock, 0.0f);
  }
}

void require_rays(const SampledRays& sampled, std::size_t samples) {
  bool there = true;
  for (std::size_t i = 0; i < samples; ++i) {
    there &= sampled.ray[i] >= 0 && static_cast<std::size_t>(sampled.ray[i]) < sampled.rays;
  }
  require(there, "a sample is on a ray that is not there");
}

void positions_along(const FloatMatrix& origins, const FloatMatrix& directions,
                     const IntVector& ray, const FloatVector& t, const MutableMatrix& out) {
  const std::size_t samples = t.shape(0), rays = origins.shape(1);
  require(origins.shape(0) == 3 && directions.shape(0) == 3 && directions.shape(1) == rays,
          "origins and directions must be [3, R]");
  require(ray.shape(0) == samples, "ray and t must be [M]");
  require(out.shape(0) == 3 && out.shape(1) == samples, "the output has the wrong shape");
  const SampledRays sampled{origins.data(), directions.data(), nullptr, rays, ray.data(), t.data()};
  nb::gil_scoped_release release;
  require_rays(sampled, samples);
  float block[3 * kBlock];
  for (std::size_t first = 0; first < samples; first += kBlock) {
    fill_block(sampled, first, std::min<std::size_t>(kBlock, samples - first), block, nullptr);
    store_block(block, 3, samples, first, out.data());
  }
}

void contract(int contraction, const FloatMatrix& positions, const MutableMatrix& out,
              const std::string& isa) {
  const std::size_t samples = positions.shape(1);
  require(contraction >= 0 && contraction <= 2, "there is no such contraction");
  require(positions.shape(0) == 3, "positions must be [3, M]");
  require(out.shape(0) == 3 && out.shape(1) == samples, "the output has the wrong shape");
  const Kernels& kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  alignas(64) float in[3 * kBlock], block[3 * kBlock];
  for (std::size_t first = 0; first < samples; first += kBlock) {
    load_block(positions.data(), samples, 3, first, in);
    kernels.contract(static_cast<Contraction>(contraction), in, block);
    store_block(block, 3, samples, first, out.data());
  }
}

void evaluate_along(const PackedNetwork& network, const FloatMatrix& origins,
                    const FloatMatrix& directions, const std::optional<FloatMatrix>& views,
                    const IntVector& ray, const FloatVector& t, const MutableVector& densities,
                    const std::optional<MutableMatrix>& colors, const std::string& isa,
                    int threads) {
  const std::size_t samples = t.shape(0), rays = origins.shape(1);
  const auto is_rays = [rays](const FloatMatrix& a) {
    return a.shape(0) == 3 && a.shape(1) == rays;
  };
  require(is_rays(origins) && is_rays(directions), "origins and directions must be [3, R]");
  require(views.has_value() == colors.has_value(), "colours need directions to look along");
  require(!views || is_rays(*views), "views must be [3, R]");
  require(ray.shape(0) == samples, "ray and t must be [M]");
  require(network.view().position.inputs == 3, "the network takes features, not positions");
  const Outputs out = outputs_of(network, samples, densities, colors);
  const Kernels& kernels = kernels_named(isa);
  threads = thread_count(threads);
  const SampledRays sampled{origins.data(), directions.data(), views ? views->data() : nullptr,
                            rays, ray.data(), t.data()};
  nb::gil_scoped_release release;
  require_rays(sampled, samples);
  evaluate_blocks(network.view(), kernels, threads, out,
                  [&](std::size_t first, float* positions, float* block_directions) {
                    const std::size_t count = std::min<std::size_t>(kBlock, samples - first);
                    fill_block(sampled, first, count, positions, block_directions);
                  });
}

}  // namespace

void bind_network(nb::module_& m) {
  nb::class_<PackedEncoding>(m, "Encoding")
      .def_prop_ro("inputs", [](const PackedEncoding& self) { return self.view().inputs; })
      .def_prop_ro("outputs", [](const PackedEncoding& self) { return self.view().outputs; })
      .def_static("identity", &PackedEncoding::identity, "dims"_a)
      .def_static("frequencies", &frequencies, "radians"_a, "dims"_a, "input_first"_a,
                  "input_last"_a, "by_dimension"_a)
      .def_static("harmonics", &PackedEncoding::harmonics, "degree"_a, "remapped"_a)
      .def_static("hash_grid", &hash_grid, "levels"_a, "table"_a.noconvert(), "shift"_a)
      .def_static("planes", &planes, "planes"_a, "lines"_a, "axes"_a, "windows"_a, "dims"_a,
                  "summed"_a)
      .def_static("parts", &PackedEncoding::parts, "parts"_a);
  m.def("encode", &encode, "encoding"_a, "x"_a, "out"_a, "isa"_a, "threads"_a);
  nb::class_<PackedNetwork>(m, "Network")
      .def("__init__", &new_network, "contraction"_a, "bounded"_a, "position"_a, "mlps"_a,
           "density"_a, "features"_a, "color"_a, "grid"_a)
      .def_prop_ro("nbytes", &PackedNetwork::bytes);
  m.def("evaluate", &evaluate, "network"_a, "positions"_a, "directions"_a.none(), "densities"_a,
        "colors"_a.none(), "isa"_a, "threads"_a);
  m.def("positions_along", &positions_along, "origins"_a, "directions"_a, "ray"_a, "t"_a,
        "out"_a);
  m.def("contract", &contract, "contraction"_a, "positions"_a, "out"_a, "isa"_a);
  m.def("evaluate_along", &evaluate_along, "network"_a, "origins"_a, "directions"_a,
        "views"_a.none(), "ray"_a, "t"_a, "densities"_a, "colors"_a.none(), "isa"_a, "threads"_a);
}

}  // namespace belvedere::neural
