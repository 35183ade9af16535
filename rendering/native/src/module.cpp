// The Python face of the native engine. Arrays cross as buffers, without copies; the GIL is
// released while anything is computed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "arguments.h"
#include "dispatch.h"
#include "draw_list.h"
#include "fit.h"
#include "page_pool.h"
#include "render.h"
#include "scene.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere {
namespace {

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using DoubleArray = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using MutableFloats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using MutableInts = nb::ndarray<std::int32_t, nb::c_contig, nb::device::cpu>;
using ByteArray = nb::ndarray<const std::uint8_t, nb::c_contig, nb::device::cpu>;

struct Cancel {
  CancelFlag flag{false};
};

WorkspacePool& workspaces() {
  static WorkspacePool* pool = new WorkspacePool;
  return *pool;
}

// A workspace for the time of one call. If that call runs out of memory the workspace goes
// with it, so that the next frame starts lean.
class WorkspaceLoan {
 public:
  WorkspaceLoan() : workspace_(workspaces().take()) {}
  ~WorkspaceLoan() {
    if (std::uncaught_exceptions() == 0) workspaces().give_back(std::move(workspace_));
  }
  Workspace& operator*() { return *workspace_; }

 private:
  std::unique_ptr<Workspace> workspace_;
};

const Kernels& kernels_named(const std::string& name) {
  const Kernels* kernels = find_kernels(name);
  require(kernels != nullptr, "this processor has no such instruction set");
  return *kernels;
}

GaussianArrays gaussian_arrays(const FloatArray& means, const FloatArray& quats,
                               const FloatArray& scales, const FloatArray& opacities,
                               const FloatArray& sh) {
  require(means.ndim() == 2 && means.shape(1) == 3, "means must be [N, 3]");
  const std::size_t count = means.shape(0);
  require(quats.ndim() == 2 && quats.shape(0) == count && quats.shape(1) == 4,
          "quats must be [N, 4]");
  require(scales.ndim() == 2 && scales.shape(0) == count && scales.shape(1) == 3,
          "scales must be [N, 3]");
  require(opacities.ndim() == 1 && opacities.shape(0) == count, "opacities must be [N]");
  require(sh.ndim() == 3 && sh.shape(0) == count && sh.shape(2) == 3, "sh must be [N, K, 3]");
  const int degree = static_cast<int>(std::lround(std::sqrt(double(sh.shape(1))))) - 1;
  require(degree >= 0 && degree <= 3 &&
              sh.shape(1) == static_cast<std::size_t>((degree + 1) * (degree + 1)),
          "sh must hold 1, 4, 9 or 16 bases");
  require(count < 0xffffffffu - kChunkGaussians, "too many Gaussians for one scene");
  return {count,         degree,           means.data(), quats.data(),
          scales.data(), opacities.data(), sh.data()};
}

std::unique_ptr<PackedScene> pack(const FloatArray& means, const FloatArray& quats,
                                  const FloatArray& scales, const FloatArray& opacities,
                                  const FloatArray& sh, int threads) {
  const GaussianArrays arrays = gaussian_arrays(means, quats, scales, opacities, sh);
  auto scene = std::make_unique<PackedScene>();
  nb::gil_scoped_release release;
  pack_scene(arrays, thread_count(threads), *scene);
  return scene;
}

std::shared_ptr<PagePool> new_pool(std::size_t page_gaussians, int sh_degree) {
  require(page_gaussians > 0 && page_gaussians <= (1u << 24), "a page holds 1 to 2^24 Gaussians");
  require(sh_degree >= 0 && sh_degree <= 3, "the SH degree is 0 to 3");
  return std::make_shared<PagePool>(page_gaussians, sh_degree);
}

std::unique_ptr<PackedPage> pack_page(const std::shared_ptr<PagePool>& pool,
                                      const FloatArray& means, const FloatArray& quats,
                                      const FloatArray& scales, const FloatArray& opacities,
                                      const FloatArray& sh, int threads) {
  const GaussianArrays arrays = gaussian_arrays(means, quats, scales, opacities, sh);
  nb::gil_scoped_release release;
  return std::make_unique<PackedPage>(pool, arrays, thread_count(threads));
}

using RowArray =
    nb::ndarray<const std::int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

std::vector<std::unique_ptr<PackedPage>> pack_many(
    const std::shared_ptr<PagePool>& pool, const FloatArray& means, const FloatArray& quats,
    const FloatArray& scales, const FloatArray& opacities, const FloatArray& sh,
    const RowArray& rows, int threads) {
  const GaussianArrays arrays = gaussian_arrays(means, quats, scales, opacities, sh);
  std::vector<PageRows> wanted(rows.shape(0));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const std::int64_t first = rows.data()[2 * i], count = rows.data()[2 * i + 1];
    const auto most = static_cast<std::int64_t>(arrays.count);
    require(first >= 0 && count >= 0 && first <= most && count <= most - first,
            "rows beyond the arrays");
    wanted[i] = {static_cast<std::size_t>(first), static_cast<std::size_t>(count)};
  }
  nb::gil_scoped_release release;
  return pack_pages(pool, arrays, wanted, thread_count(threads));
}

// A list to draw, with the scenes it points to.
struct OwningDrawList {
  DrawList list;
  std::vector<nb::object> scenes;
};

using Tint = std::tuple<float, float, float>;
using Part = std::tuple<nb::object, float, Tint, float>;  // scene, weight, tint, its share

std::unique_ptr<OwningDrawList> draw_list(const std::vector<Part>& parts) {
  auto owner = std::make_unique<OwningDrawList>();
  for (const auto& [scene, weight, tint, share] : parts) {
    require(weight > 0 && weight <= 1, "a weight must be in (0, 1]");
    require(share >= 0 && share <= 1, "a tint's share must be in [0, 1]");
    const float rgb[3] = {std::get<0>(tint), std::get<1>(tint), std::get<2>(tint)};
    owner->list.append(nb::cast<const PackedGaussians&>(scene), weight, rgb, share);
    require(owner->list.count < 0xffffffffu - kChunkGaussians, "too many Gaussians for one frame");
    owner->scenes.push_back(scene);
  }
  return owner;
}

CameraParams camera_params(const DoubleArray& viewmat, const DoubleArray& intrinsics, int width,
                           int height, double near, double far, int model) {
  require(viewmat.ndim() == 2 && viewmat.shape(0) == 4 && viewmat.shape(1) == 4,
          "viewmat must be [4, 4]");
  require(intrinsics.ndim() == 2 && intrinsics.shape(0) == 3 && intrinsics.shape(1) == 3,
          "K must be [3, 3]");
  require(width > 0 && height > 0 && width <= 16384 && height <= 16384, "bad image size");
  require(model >= 0 && model <= 2, "unknown camera model");
  CameraParams c{};
  const double* v = viewmat.data();
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) c.rotation[3 * i + j] = v[4 * i + j];
    c.translation[i] = v[4 * i + 3];
  }
  for (int j = 0; j < 3; ++j) {
    c.position[j] = 0;
    for (int i = 0; i < 3; ++i) c.position[j] -= c.rotation[3 * i + j] * c.translation[i];
  }
  const double* k = intrinsics.data();
  c.fx = k[0], c.fy = k[4], c.cx = k[2], c.cy = k[5];
  c.near = near, c.far = far;
  c.width = width, c.height = height;
  c.model = static_cast<CameraModel>(model);
  return c;
}

template <typename Array>
auto image_data(std::optional<Array>& array, const CameraParams& c, std::size_t channels)
    -> decltype(array->data()) {
  if (!array) return nullptr;
  const bool flat = channels == 1;
  require(array->ndim() == (flat ? 2u : 3u) &&
              array->shape(0) == static_cast<std::size_t>(c.height) &&
              array->shape(1) == static_cast<std::size_t>(c.width) &&
              (flat || array->shape(2) == channels),
          "an output image has the wrong shape");
  return array->data();
}

// Alpha, colour, depth, median depth, count: arrays to render into, None where not wanted.
using Images = std::tuple<std::optional<MutableFloats>, std::optional<MutableFloats>,
                          std::optional<MutableFloats>, std::optional<MutableFloats>,
                          std::optional<MutableInts>>;

ImageTargets image_targets(Images& images, const CameraParams& camera) {
  require(std::get<0>(images).has_value(), "alpha is always rendered");
  ImageTargets targets;
  targets.alpha = image_data(std::get<0>(images), camera, 1);
  targets.color = image_data(std::get<1>(images), camera, 3);
  targets.depth = image_data(std::get<2>(images), camera, 1);
  targets.median_depth = image_data(std::get<3>(images), camera, 1);
  targets.count = image_data(std::get<4>(images), camera, 1);
  return targets;
}

// A second eye beside the first: its camera, how far outlines may be off, the sine of how far
// directions may, and its images.
using Second = std::tuple<CameraParams, float, float, Images>;

// What project_pair.h takes for granted.
void require_pair(const CameraParams& a, const CameraParams& b, float drift_px, float sine) {
  require(a.model == CameraModel::kPinhole && b.model == CameraModel::kPinhole,
          "only pinhole cameras are drawn as a pair");
  require(a.width == b.width && a.height == b.height && a.near == b.near && a.far == b.far &&
              a.fx == b.fx && a.fy == b.fy && a.cy == b.cy,
          "the eyes' images differ in more than cx");
  require(std::equal(a.rotation, a.rotation + 9, b.rotation) &&
              a.translation[1] == b.translation[1] && a.translation[2] == b.translation[2],
          "the eyes lie apart in more than x");
  require(drift_px > 0 && sine > 0, "the limits of what eyes share must be above 0");
}

// Renders into the given arrays. Returns the statistics, or None if the render was cancelled.
std::optional<RenderStats> render_scene(
    const OwningDrawList& scene, const CameraParams& camera, const Cancel& cancel,
    const std::string& isa, std::tuple<float, float, float> background, float transmittance_stop,
    float kept_dilation_px2, int sh_degree, int threads, std::size_t record_budget_bytes,
    std::tuple<int, int> rows, Images images, std::optional<Second> second) {
  const Kernels& kernels = kernels_named(isa);
  const auto [first_row, end_row] = rows;
  require(0 <= first_row && first_row < end_row && end_row <= camera.height &&
              first_row % kTileSize == 0 &&
              (end_row % kTileSize == 0 || end_row == camera.height),
          "rows must begin and end at a tile's edge");
  const RenderOptions options{
      sh_degree,
      kept_dilation_px2,
      {std::get<0>(background), std::get<1>(background), std::get<2>(background)},
      transmittance_stop,
      thread_count(threads),
      record_budget_bytes,
      first_row / kTileSize,
      (end_row + kTileSize - 1) / kTileSize};
  ImageTargets targets[2] = {image_targets(images, camera), {}};
  SecondEye eye{};
  if (second) {
    auto& [other, drift_px, sine, others] = *second;
    require_pair(camera, other, drift_px, sine);
    eye = {&other, drift_px, sine};
    targets[1] = image_targets(others, other);
  }
  RenderStats stats;
  nb::gil_scoped_release release;
  WorkspaceLoan workspace;
  if (!render(kernels, scene.list, camera, second ? &eye : nullptr, options, cancel.flag, targets,
              *workspace, stats)) {
    return std::nullopt;
  }
  return stats;
}

template <typename T>
nb::object to_numpy(std::vector<T>&& values, std::size_t columns) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  const std::size_t rows = owned->size() / columns;
  if (columns == 1) return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), {rows}, owner));
  return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), {rows, columns}, owner));
}

// The survivors of projection in the list's order: index, means2d, depths, conics, colors,
// opacities, extents.
nb::tuple project_scene(const OwningDrawList& scene, const CameraParams& camera,
                        const std::string& isa, float kept_dilation_px2, int sh_degree) {
  const Kernels& kernels = kernels_named(isa);
  std::vector<std::uint32_t> index;
  std::vector<float> means2d, depths, conics, colors, opacities, extents;
  {
    nb::gil_scoped_release release;
    const ProjectTask task{&camera, sh_degree, kept_dilation_px2};
    std::vector<Splat> splats(kChunkGaussians);
    constexpr float kLn2 = 0.69314718f;
    for (const ChunkDraw& chunk : scene.list.chunks) {
      const std::uint32_t count = kernels.project_chunk(task, chunk, splats.data());
      for (std::uint32_t i = 0; i < count; ++i) {
        const Splat& s = splats[i];
        index.push_back(s.index);
        means2d.insert(means2d.end(), {s.x, s.y});
        depths.push_back(s.depth);
        conics.insert(conics.end(), {2 * kLn2 * s.wxx * s.wxx, 2 * kLn2 * s.wxx * s.wxy,
                                     2 * kLn2 * (s.wxy * s.wxy + s.wyy * s.wyy)});
        colors.insert(colors.end(), {s.r, s.g, s.bl});
        opacities.push_back(std::exp2(s.log2_opacity));
        extents.insert(extents.end(), {s.extent_x, s.extent_y});
      }
    }
  }
  return nb::make_tuple(to_numpy(std::move(index), 1), to_numpy(std::move(means2d), 2),
                        to_numpy(std::move(depths), 1), to_numpy(std::move(conics), 3),
                        to_numpy(std::move(colors), 3), to_numpy(std::move(opacities), 1),
                        to_numpy(std::move(extents), 2));
}

// Pairs a second that all threads together blend when nothing but arithmetic is left.
double pairs_per_second_limit(const std::string& isa, int threads, int repeats) {
  const Kernels& kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  const int workers = thread_count(threads);
  std::vector<std::uint64_t> pairs(static_cast<std::size_t>(workers));
  std::vector<float> sinks(static_cast<std::size_t>(workers) * 16);
  const auto start = std::chrono::steady_clock::now();
  ThreadPool::instance().parallel_for(pairs.size(), workers, [&](std::size_t i, int) {
    pairs[i] = kernels.composite_limit(repeats, &sinks[i * 16]);
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  double total = 0;
  for (const std::uint64_t n : pairs) total += static_cast<double>(n);
  return total / took.count();
}

FitModel fit_model(MutableFloats& parameters, MutableFloats& moments, MutableFloats& seen,
                   int degree) {
  require(parameters.ndim() == 2 && parameters.shape(1) > kFitHarmonics, "parameters: bad rows");
  const std::size_t count = parameters.shape(0), width = parameters.shape(1);
  const auto bases = static_cast<int>((width - kFitHarmonics) / 3);
  require(width == kFitHarmonics + 3u * static_cast<unsigned>(bases) &&
              (bases == 1 || bases == 4 || bases == 9 || bases == 16),
          "sh must hold 1, 4, 9 or 16 bases");
  require(degree >= 0 && (degree + 1) * (degree + 1) <= bases, "no such SH degree in the rows");
  require(moments.ndim() == 2 && moments.shape(0) == count && moments.shape(1) == 2 * width + 1,
          "moments: bad rows");
  require(seen.ndim() == 2 && seen.shape(0) == count && seen.shape(1) == kFitSeen,
          "seen: bad rows");
  require(count < 0x7fffffffu, "too many Gaussians to fit");
  return {count, bases, degree, parameters.data(), moments.data(), seen.data()};
}

using Rates = std::tuple<float, float, float, float, float, float>;

// Draws rows of parameters and steps against the error; see fit.h. Returns the squared error, and
// how many splats and pairs there were.
std::tuple<double, std::size_t, std::size_t> fit(
    FitWorkspace& workspace, const std::string& isa, MutableFloats parameters,
    MutableFloats moments, MutableFloats seen, int degree, const CameraParams& camera,
    const ByteArray& target, std::tuple<float, float, float> background, float alpha_weight,
    float robust, std::optional<Rates> rates, std::optional<MutableFloats> image, int threads) {
  const Kernels& kernels = kernels_named(isa);
  const FitModel model = fit_model(parameters, moments, seen, degree);
  require(camera.model == CameraModel::kPinhole, "Gaussians are fitted to pinhole cameras");
  require(target.ndim() == 3 && target.shape(0) == static_cast<std::size_t>(camera.height) &&
              target.shape(1) == static_cast<std::size_t>(camera.width) && target.shape(2) == 4,
          "the target must be [H, W, 4]");
  require(robust > 0, "robust must be above 0");
  const FitTarget wanted{
      target.data(),
      {std::get<0>(background), std::get<1>(background), std::get<2>(background)},
      alpha_weight,
      robust};
  FitRates step{};
  if (rates) {
    const auto [mean, quat, scale, opacity, color, harmonics] = *rates;
    step = {mean, quat, scale, opacity, color, harmonics, 0.9f, 0.999f};
  }
  float* out = image_data(image, camera, 4);
  const int workers = thread_count(threads);
  nb::gil_scoped_release release;
  const FitResult result = fit_picture(*kernels.fit, model, camera, wanted,
                                       rates ? &step : nullptr, workers, out, workspace);
  return {result.squared_error, result.splats, result.pairs};
}

}  // namespace
}  // namespace belvedere

NB_MODULE(_native, m) {
  using namespace belvedere;
  m.doc() = "The native rasterizer; rendering/native/cpu.py is its Python face.";

  nb::class_<PackedGaussians>(m, "PackedGaussians", "Gaussians ready to be drawn.")
      .def_ro("count", &PackedGaussians::count)
      .def_prop_ro("sh_degree", [](const PackedGaussians& g) { return g.view.sh_degree; })
      .def_prop_ro("nbytes", &PackedGaussians::bytes);
  nb::class_<PackedScene, PackedGaussians>(m, "PackedScene");
  nb::class_<PackedPage, PackedGaussians>(m, "PackedPage");
  nb::class_<PagePool>(m, "PagePool", "Memory for packed Gaussians that come and go.")
      .def(nb::new_(&new_pool), "page_gaussians"_a, "sh_degree"_a)
      .def_prop_ro("page_gaussians", &PagePool::page_gaussians)
      .def_prop_ro("page_bytes", &PagePool::page_bytes)
      .def_prop_ro("pages_in_use", &PagePool::pages_in_use)
      .def("keep_free", &PagePool::keep_free, "pages"_a)
      .def("pack", &pack_page, "means"_a, "quats"_a, "scales"_a, "opacities"_a, "sh"_a,
           "threads"_a)
      .def("pack_many", &pack_many, "means"_a, "quats"_a, "scales"_a, "opacities"_a, "sh"_a,
           "rows"_a, "threads"_a, "A page for each (first, count) of `rows`, all or none.");
  nb::class_<OwningDrawList>(m, "DrawList", "Packed Gaussians to draw together, in this order.")
      .def(nb::new_(&draw_list), "parts"_a)
      .def_prop_ro("count", [](const OwningDrawList& l) { return l.list.count; });
  nb::class_<CameraParams>(m, "CameraParams");
  nb::class_<Cancel>(m, "CancelFlag", "Set from any thread to abandon a render in progress.")
      .def(nb::init<>())
      .def("set", [](Cancel& c) { c.flag.store(true); })
      .def("is_set", [](const Cancel& c) { return c.flag.load(); });
  nb::class_<RenderStats>(m, "RenderStats")
      .def_ro("visible", &RenderStats::visible)
      .def_ro("tile_pairs", &RenderStats::tile_pairs)
      .def_ro("parts", &RenderStats::parts)
      .def_ro("record_bytes", &RenderStats::record_bytes)
      .def_prop_ro("project_ms", [](const RenderStats& s) { return s.times.project_ms; })
      .def_prop_ro("sort_ms", [](const RenderStats& s) { return s.times.sort_ms; })
      .def_prop_ro("bin_ms", [](const RenderStats& s) { return s.times.bin_ms; })
      .def_prop_ro("composite_ms", [](const RenderStats& s) { return s.times.composite_ms; });

  m.def("pack_scene", &pack, "means"_a, "quats"_a, "scales"_a, "opacities"_a, "sh"_a, "threads"_a);
  m.def("camera_params", &camera_params, "viewmat"_a, "K"_a, "width"_a, "height"_a, "near"_a,
        "far"_a, "model"_a);
  m.def("render", &render_scene, "scene"_a, "camera"_a, "cancel"_a, "isa"_a, nb::kw_only(),
        "background"_a, "transmittance_stop"_a, "kept_dilation_px2"_a, "sh_degree"_a, "threads"_a, "record_budget_bytes"_a,
        "rows"_a, "images"_a, "second"_a.none() = nb::none());
  m.def("project", &project_scene, "scene"_a, "camera"_a, "isa"_a, nb::kw_only(),
        "kept_dilation_px2"_a, "sh_degree"_a);
  nb::class_<FitWorkspace>(m, "FitWorkspace", "Memory that steps of a fit share; one at a time.")
      .def(nb::init<>());
  m.def("fit", &fit, "workspace"_a, "isa"_a, "parameters"_a, "moments"_a, "seen"_a, nb::kw_only(),
        "degree"_a, "camera"_a, "target"_a, "background"_a, "alpha_weight"_a, "robust"_a,
        "rates"_a.none(), "image"_a.none(), "threads"_a);
  m.def("pairs_per_second_limit", &pairs_per_second_limit, "isa"_a, "threads"_a, "repeats"_a);
  m.def("idle_workspaces", [] {
    const WorkspacePool::Idle idle = workspaces().idle();
    return std::make_tuple(idle.workspaces, idle.bytes);
  }, "How many workspaces wait for the next frame, and the bytes they hold together.");
  m.attr("TILE_SIZE") = kTileSize;
  m.attr("MAX_THREADS") = kMostThreads;
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
    return names;
  });
}
