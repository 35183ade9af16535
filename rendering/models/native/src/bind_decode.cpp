// The decoder of neural anchors, and which anchors a view may show.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "buffer.h"
#include "decode_types.h"
#include "mlp_pack.h"
#include "thread_pool.h"

namespace belvedere::neural {
namespace {

using namespace nb::literals;

using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using MutableFlags = nb::ndarray<bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// Levels, rule, standard distance, res_scale, fork, voxel size.
using OctreeTuple = std::tuple<int, int, double, double, double, double>;
using Target = std::tuple<MutableMatrix, MutableMatrix, MutableMatrix, MutableVector, MutableMatrix>;

// A model's networks, which are kept by Python as long as this is.
struct AnchorDecoder {
  AnchorNetworks networks{};
  std::size_t scratch_floats = 0;
};

OctreeView octree_view(const OctreeTuple& octree) {
  const auto& [levels, rule, standard_dist, res_scale, fork, voxel_size] = octree;
  require(levels > 0 && levels <= kMostLevels, "an octree of too many levels");
  require(rule >= 0 && rule <= 3, "an unknown rule of levels");
  require(fork > 1 && std::isfinite(fork), "an octree must fork");
  OctreeView view{};
  view.levels = levels, view.rule = static_cast<LevelRule>(rule);
  view.standard_dist = static_cast<float>(standard_dist);
  view.res_scale = static_cast<float>(res_scale);
  view.per_log2 = static_cast<float>(1 / std::log2(fork));
  for (int i = 0; i < levels; ++i) {
    view.half_voxel[i] = static_cast<float>(0.5 * voxel_size / std::pow(fork, i));
  }
  return view;
}

void new_decoder(AnchorDecoder* self, const PackedMlp& opacity, const PackedMlp& color,
                 const PackedMlp& covariance, const PackedMlp* bank, int offsets, int features,
                 std::tuple<bool, bool, bool> distances, bool level_input, bool has_levels,
                 const std::optional<OctreeTuple>& octree) {
  require(offsets > 0 && offsets <= 1024 && features > 0 && features <= 1024,
          "anchors of too many values");
  require(has_levels || !(level_input || octree), "the anchors have no levels");
  AnchorDecoder decoder;
  AnchorNetworks& n = decoder.networks;
  n.opacity = opacity.view(), n.color = color.view(), n.covariance = covariance.view();
  std::tie(n.opacity_dist, n.color_dist, n.covariance_dist) = distances;
  n.level_input = level_input;
  n.offsets = offsets, n.features = features;
  n.width = 9 + 3 * offsets + features + 2 * has_levels;
  require(n.width >= 16, "anchors of too few values");
  int widest = 0;
  const auto check = [&](const MlpView& mlp, int inputs, int outputs) {
    require(mlp.inputs == inputs && mlp.outputs == outputs, "a network has the wrong width");
    widest = std::max(widest, mlp.widest);
  };
  const int inputs = features + 3 + level_input;
  check(n.opacity, inputs + n.opacity_dist, offsets);
  check(n.color, inputs + n.color_dist, 3 * offsets);
  check(n.covariance, inputs + n.covariance_dist, 7 * offsets);
  if (bank) {
    require(features % 4 == 0, "a feature bank needs a multiple of four features");
    n.has_bank = true, n.bank = bank->view();
    n.bank_distance = !has_levels, n.bank_level = has_levels && level_input;
    check(n.bank, 3 + (n.bank_distance || n.bank_level), 3);
  }
  if (octree) n.octree = octree_view(*octree);
  const std::size_t rows = n.width + (features + 5) + 1 + 7 + 11 * static_cast<std::size_t>(offsets);
  decoder.scratch_floats = (rows + 2 * static_cast<std::size_t>(widest)) * kBlock;
  new (self) AnchorDecoder(decoder);
}

// Memory that a thread keeps from one page to the next.
struct Workspace {
  Buffer<std::int32_t> index;
  Buffer<float> share, scratch;
};

GaussianTarget target_from(const Target& out, std::size_t first, std::size_t room) {
  const auto& [means, quats, scales, opacities, sh] = out;
  const std::size_t end = first + room;
  require(means.shape(0) >= end && quats.shape(0) >= end && scales.shape(0) >= end &&
              opacities.shape(0) >= end && sh.shape(0) >= end,
          "too little room for the Gaussians");
  require(means.shape(1) == 3 && quats.shape(1) == 4 && scales.shape(1) == 3 && sh.shape(1) == 3,
          "arrays of Gaussians have the wrong shape");
  return {means.data() + 3 * first, quats.data() + 4 * first, scales.data() + 3 * first,
          opacities.data() + first, sh.data() + 3 * first};
}

// Anchors of a page, and where their Gaussians go.
struct PageTask {
  const float* rows;
  const std::int32_t* chosen;  // null for all
  std::size_t row_count, count;
  GaussianTarget target;
};

PageTask task_of(const AnchorDecoder& decoder, const FloatMatrix& rows,
                 const std::optional<IntVector>& chosen, const Target& out, std::size_t first) {
  const AnchorNetworks& networks = decoder.networks;
  require(rows.shape(1) == static_cast<std::size_t>(networks.width), "rows of another width");
  require(rows.shape(0) < std::size_t{std::numeric_limits<std::int32_t>::max()}, "too many rows");
  const std::size_t count = chosen ? chosen->shape(0) : rows.shape(0);
  return {rows.data(), chosen ? chosen->data() : nullptr, rows.shape(0), count,
          target_from(out, first, count * networks.offsets)};
}

// Returns how many Gaussians. On one thread, without the interpreter's lock.
std::size_t decode_page(const AnchorDecoder& decoder, const AnchorView& view,
                        const Kernels& kernels, const PageTask& page) {
  if (page.count == 0) return 0;
  const AnchorNetworks& networks = decoder.networks;
  thread_local Workspace memory;
  std::int32_t* const index = memory.index.resize_uncleared(page.count);
  float* const share = memory.share.resize_uncleared(page.count);
  if (page.chosen) {
    for (std::size_t i = 0; i < page.count; ++i) {
      index[i] = page.chosen[i];
      require(index[i] >= 0 && static_cast<std::size_t>(index[i]) < page.row_count,
              "an anchor beyond the rows");
    }
  } else {
    std::iota(index, index + page.count, 0);
  }
  std::fill_n(share, page.count, 1.0f);
  ChosenAnchors anchors{page.rows, index, share, page.count};
  if (networks.octree.levels) {
    anchors.count = kernels.choose_levels(networks, view, anchors, index, share);
  }
  float* const scratch = memory.scratch.resize_uncleared(decoder.scratch_floats);
  return kernels.decode_anchors(networks, view, anchors, page.target, scratch);
}

using Center = std::tuple<double, double, double>;

AnchorView view_from(const Center& center, float least_opacity) {
  require(least_opacity >= 0, "an opacity must not be negative");
  return {{std::get<0>(center), std::get<1>(center), std::get<2>(center)}, least_opacity};
}

// Writes from row `first` of `out` on; returns how many Gaussians. On one thread.
std::size_t decode(const AnchorDecoder& decoder, const FloatMatrix& rows,
                   const std::optional<IntVector>& chosen, const Center& center,
                   float least_opacity, const std::string& isa, const Target& out,
                   std::size_t first) {
  const Kernels& kernels = kernels_named(isa);
  const PageTask page = task_of(decoder, rows, chosen, out, first);
  const AnchorView view = view_from(center, least_opacity);
  nb::gil_scoped_release release;
  return decode_page(decoder, view, kernels, page);
}

// The same of several pages, each from a row of its own on, by several threads.
std::vector<std::size_t> decode_many(const AnchorDecoder& decoder,
                                     const std::vector<FloatMatrix>& rows,
                                     const std::vector<std::optional<IntVector>>& chosen,
                                     const std::vector<std::size_t>& firsts, const Center& center,
                                     float least_opacity, const std::string& isa,
                                     const Target& out, int threads) {
  const Kernels& kernels = kernels_named(isa);
  require(rows.size() == chosen.size() && rows.size() == firsts.size(), "not as many pages");
  std::vector<PageTask> pages;
  std::size_t end = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    require(firsts[i] >= end, "pages must not write where others do");
    pages.push_back(task_of(decoder, rows[i], chosen[i], out, firsts[i]));
    end = firsts[i] + pages.back().count * decoder.networks.offsets;
  }
  const AnchorView view = view_from(center, least_opacity);
  std::vector<std::size_t> counts(pages.size()), order(pages.size());
  threads = thread_count(threads);
  nb::gil_scoped_release release;
  // Those that take longest first, so that threads end together.
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return pages[a].count > pages[b].count;
  });
  ThreadPool::instance().parallel_for(pages.size(), threads, [&](std::size_t i, int) {
    counts[order[i]] = decode_page(decoder, view, kernels, pages[order[i]]);
  });
  return counts;
}

FrustumView frustum_view(const double* planes, const double* position, double slack) {
  FrustumView view{};
  for (int k = 0; k < 3; ++k) view.position[k] = static_cast<float>(position[k]);
  view.slack = static_cast<float>(slack);
  for (int s = 0; s < 6; ++s) {
    const double* const p = planes + 5 * s;
    FrustumSide& side = view.sides[s];
    for (int k = 0; k < 3; ++k) side.normal[k] = static_cast<float>(p[k]);
    // Radii are rounded, too.
    side.length = static_cast<float>(std::hypot(p[0], p[1], p[2]) * (1 + 1e-5));
    side.offset = static_cast<float>(p[3] + 1e-6 * (std::isfinite(p[3]) ? std::abs(p[3]) : 0));
    side.reach = static_cast<float>(p[4] * (1 + 1e-6));
  }
  return view;
}

// Columns of `spheres` [5, n] that are not among `chosen`, ascending indices, to `out`.
void unchosen(const FloatMatrix& spheres, const IntVector& chosen, const MutableMatrix& out) {
  const std::size_t count = spheres.shape(1), left = out.shape(1);
  require(spheres.shape(0) == 5 && out.shape(0) == 5, "spheres have the wrong shape");
  require(chosen.shape(0) <= count && left == count - chosen.shape(0), "not as many spheres");
  std::size_t next = 0, to = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (next < chosen.shape(0) && chosen.data()[next] == static_cast<std::int32_t>(i)) {
      ++next;
      continue;
    }
    require(to < left, "indices must ascend");
    for (std::size_t k = 0; k < 5; ++k) out.data()[k * left + to] = spheres.data()[k * count + i];
    ++to;
  }
}

// What a view sees in float64, for boxes (splat/bounds.py).
struct VolumeView {
  double planes[6][5], position[3], slack;
};
struct BoxView {
  double centre[3], half[3], largest;
};
constexpr double kBoxRounding = 1e-5;  // of their sizes; as _POSITION_SLACK

VolumeView volume_view(const double* planes, const double* position, double slack) {
  VolumeView view{};
  std::copy_n(planes, 30, &view.planes[0][0]);
  std::copy_n(position, 3, view.position);
  view.slack = slack;
  return view;
}

BoxView box_view(const float* low, const float* high, float largest) {
  BoxView box{};
  for (int k = 0; k < 3; ++k) {
    box.centre[k] = 0.5 * (static_cast<double>(low[k]) + high[k]);
    box.half[k] = 0.5 * (static_cast<double>(high[k]) - low[k]);
  }
  box.largest = largest;
  return box;
}

bool in_view(const VolumeView& view, const BoxView& box) {
  const double slack = view.slack + kBoxRounding * (box.half[0] + box.half[1] + box.half[2]);
  for (const double(&plane)[5] : view.planes) {
    double least = 0;
    for (int k = 0; k < 3; ++k) {
      least += plane[k] * (box.centre[k] - view.position[k]) - std::abs(plane[k]) * box.half[k];
    }
    if (!(least <= plane[3] + plane[4] * box.largest + slack)) return false;
  }
  return true;
}

// What some views see together.
class AnchorFrusta {
 public:
  // `planes` [V, 6, 5], `positions` [V, 3] and `slacks` [V] as of ViewVolume.
  AnchorFrusta(const Doubles& planes, const Doubles& positions, const Doubles& slacks,
               const std::string& isa)
      : kernels_(&kernels_named(isa)) {
    require(planes.ndim() == 3 && planes.shape(1) == 6 && planes.shape(2) == 5 &&
                positions.ndim() == 2 && positions.shape(0) == planes.shape(0) &&
                positions.shape(1) == 3 && slacks.ndim() == 1 &&
                slacks.shape(0) == planes.shape(0),
            "views have the wrong shape");
    for (std::size_t v = 0; v < planes.shape(0); ++v) {
      volumes_.push_back(volume_view(planes.data() + 30 * v, positions.data() + 3 * v,
                                     slacks.data()[v]));
      views_.push_back(frustum_view(planes.data() + 30 * v, positions.data() + 3 * v,
                                    slacks.data()[v]));
    }
  }

  // The anchors of which any view may show something: their indices go to `out`, ascending;
  // returns how many. `spheres` [5, n]: means, radii that hold the means of an anchor's Gaussians,
  // and their largest deviations.
  std::size_t choose(const FloatMatrix& spheres, const MutableInts& out) const {
    require(out.shape(0) >= count_of(spheres), "too little room for the anchors");
    nb::gil_scoped_release release;
    return choose(spheres, out.data());
  }

  // Of each of many `spheres`, whether any view may show something of them: to `out`.
  void any_in_view(const std::vector<FloatMatrix>& spheres, const MutableFlags& out) const {
    require(out.shape(0) == spheres.size(), "not a flag for each");
    std::size_t most = 0;
    for (const FloatMatrix& each : spheres) most = std::max(most, count_of(each));
    nb::gil_scoped_release release;
    thread_local Buffer<std::int32_t> memory;
    std::int32_t* const chosen = memory.resize_uncleared(most);
    for (std::size_t i = 0; i < spheres.size(); ++i) {
      out.data()[i] = choose(spheres[i], chosen) != 0;
    }
  }

  // Of boxes, whether any view may show something of what they hold: to `out`. `low` and `high`
  // [P, 3] hold means, `largest` [P] are deviations; as ViewVolume.may_see.
  void boxes_in_view(const FloatMatrix& low, const FloatMatrix& high, const FloatVector& largest,
                     const MutableFlags& out) const {
    const std::size_t count = out.shape(0);
    require(low.shape(0) == count && high.shape(0) == count && largest.shape(0) == count &&
                low.shape(1) == 3 && high.shape(1) == 3,
            "boxes have the wrong shape");
    nb::gil_scoped_release release;
    for (std::size_t i = 0; i < count; ++i) {
      const BoxView box = box_view(low.data() + 3 * i, high.data() + 3 * i, largest.data()[i]);
      out.data()[i] = std::any_of(volumes_.begin(), volumes_.end(),
                                  [&](const VolumeView& volume) { return in_view(volume, box); });
    }
  }

 private:
  static std::size_t count_of(const FloatMatrix& spheres) {
    require(spheres.shape(0) == 5, "spheres have the wrong shape");
    require(spheres.shape(1) < std::size_t{std::numeric_limits<std::int32_t>::max()},
            "too many anchors");
    return spheres.shape(1);
  }
  std::size_t choose(const FloatMatrix& spheres, std::int32_t* out) const {
    return kernels_->choose_visible({spheres.data(), spheres.shape(1)}, views_.data(),
                                    static_cast<int>(views_.size()), out);
  }

  const Kernels* kernels_;
  std::vector<FrustumView> views_;
  std::vector<VolumeView> volumes_;
};

}  // namespace

void bind_decode(nb::module_& m) {
  nb::class_<AnchorDecoder>(m, "AnchorDecoder", "A model of neural anchors (splat/anchors.py).")
      .def("__init__", &new_decoder, "opacity"_a, "color"_a, "covariance"_a, "bank"_a.none(),
           "offsets"_a, "features"_a, "distances"_a, "level_input"_a, "has_levels"_a,
           "octree"_a.none(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(),
           nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>())
      .def("decode", &decode, "rows"_a, "chosen"_a.none(), "center"_a, "least_opacity"_a, "isa"_a,
           "out"_a, "first"_a)
      .def("decode_many", &decode_many, "rows"_a, "chosen"_a, "firsts"_a, "center"_a,
           "least_opacity"_a, "isa"_a, "out"_a, "threads"_a);
  m.def("unchosen", &unchosen, "spheres"_a, "chosen"_a, "out"_a);
  nb::class_<AnchorFrusta>(m, "AnchorFrusta", "Which anchors some views may show.")
      .def(nb::init<const Doubles&, const Doubles&, const Doubles&, const std::string&>(),
           "planes"_a, "positions"_a, "slacks"_a, "isa"_a)
      .def("choose",
           nb::overload_cast<const FloatMatrix&, const MutableInts&>(&AnchorFrusta::choose,
                                                                     nb::const_),
           "spheres"_a, "out"_a)
      .def("any_in_view", &AnchorFrusta::any_in_view, "spheres"_a, "out"_a)
      .def("boxes_in_view", &AnchorFrusta::boxes_in_view, "low"_a, "high"_a, "largest"_a, "out"_a);
}

}  // namespace belvedere::neural
