// The walk of level-of-detail selection (scene_store/lod.py, which says what it decides).
//
// Visibility repeats splat/bounds.py term by term, in double and without fused products, so
// that both come to the same bits. Only nodes that the walk meets are tested.
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bools = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewInts = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;

// The constants of splat/bounds.py.
constexpr double kFisheyeMaxTheta = 145.0 * (3.141592653589793 / 180.0);
constexpr double kPositionSlack = 1e-5;
constexpr double kAngleSlack = 1e-4;
constexpr double kMaxStretchedTheta = 3.0;

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

// One camera as `pack_views` of lod.py lays it out: doubles only.
struct View {
  double model;  // 0 pinhole, 1 ortho, 2 fisheye
  double position[3];
  double rotation[3][3];
  double near, far, position_slack;
  double planes[6][5];  // normal, offset, reach
  double left, right, top, bottom;
  double rect_radius;
  double focal;
  double inner_cosine, outer_cosine, edge_weight;

  bool ortho() const { return model == 1; }
  bool fisheye() const { return model == 2; }
};
constexpr std::size_t kViewDoubles = 55;
static_assert(sizeof(View) == kViewDoubles * sizeof(double));

struct Vector {
  double x, y, z;
};

double dot(const double* a, const Vector& b) { return a[0] * b.x + a[1] * b.y + a[2] * b.z; }
double absolute_dot(const double* a, const Vector& b) {
  return std::fabs(a[0]) * b.x + std::fabs(a[1]) * b.y + std::fabs(a[2]) * b.z;
}
double norm(const Vector& a) { return std::sqrt(a.x * a.x + a.y * a.y + a.z * a.z); }

// A node's box relative to a camera's position, world axes.
struct Box {
  Vector centre, half;

  double distance() const {
    return norm({std::max(std::fabs(centre.x) - half.x, 0.0),
                 std::max(std::fabs(centre.y) - half.y, 0.0),
                 std::max(std::fabs(centre.z) - half.z, 0.0)});
  }
  double farthest() const {
    return norm({std::fabs(centre.x) + half.x, std::fabs(centre.y) + half.y,
                 std::fabs(centre.z) + half.z});
  }
};

double stretch(double theta) {
  const double safe = std::max(theta, 1e-6);
  return safe / std::sin(safe);
}

bool in_planes(const View& view, const Box& box, double max_scale) {
  const double slack =
      view.position_slack + kPositionSlack * (box.half.x + box.half.y + box.half.z);
  for (const auto& plane : view.planes) {
    const double least = dot(plane, box.centre) - absolute_dot(plane, box.half);
    if (!(least <= plane[3] + plane[4] * max_scale + slack)) return false;
  }
  return true;
}

bool in_fisheye(const View& view, const Box& box, double max_scale, double max_sigmas) {
  const double nearest = box.distance(), radius = norm(box.half), distance = norm(box.centre);
  const double slack = view.position_slack + kPositionSlack * radius;
  if (!(nearest <= view.far + slack && box.farthest() >= view.near - slack)) return false;
  if (distance <= radius + slack) return true;
  const double x = dot(view.rotation[0], box.centre), y = dot(view.rotation[1], box.centre);
  const double z = dot(view.rotation[2], box.centre);
  const double across = std::sqrt(x * x + y * y), theta = std::atan2(across, z);
  const double cap = std::asin(std::min(radius / distance, 1.0)) + kAngleSlack;
  const double lowest = theta - cap;
  if (!(lowest <= kFisheyeMaxTheta)) return false;
  const double reach = (max_sigmas * max_scale / std::max(nearest, view.near)) *
                       stretch(std::min(theta + cap, kFisheyeMaxTheta + kAngleSlack));
  if (!(lowest <= view.rect_radius + std::sqrt(2.0) * reach)) return false;
  if (theta + cap > kMaxStretchedTheta) return true;
  const double spread = cap * stretch(std::min(theta + cap, kMaxStretchedTheta)) + reach;
  const double safe_across = across > 0 ? across : 1.0;
  const double qx = theta * x / safe_across, qy = theta * y / safe_across;
  return qx - spread <= view.right && qx + spread >= view.left && qy - spread <= view.bottom &&
         qy + spread >= view.top;
}

// Foveation: the weight at the point of the box's sphere that is nearest to the axis.
double weight(const View& view, const Box& box) {
  if (view.edge_weight == 1.0) return 1.0;
  const double distance = norm(box.centre), radius = norm(box.half);
  if (distance <= radius) return 1.0;
  const double cosine =
      std::min(std::max(dot(view.rotation[2], box.centre) / distance, -1.0), 1.0);
  const double sine = std::sqrt(1.0 - cosine * cosine);
  const double cap_sine = radius / distance;
  const double cap_cosine = std::sqrt(1.0 - cap_sine * cap_sine);
  const double nearest =
      cosine >= cap_cosine ? 1.0 : cosine * cap_cosine + sine * cap_sine;
  const double share = std::min(
      std::max((nearest - view.outer_cosine) / (view.inner_cosine - view.outer_cosine), 0.0), 1.0);
  return view.edge_weight + (1.0 - view.edge_weight) * share;
}

struct Tree {
  std::size_t size;
  const float *lo, *hi, *max_scale, *error, *loss;
  const std::int32_t *count, *first_child, *child_count;
  std::int32_t roots;
};

struct Limits {
  double error_px;
  std::int64_t max_gaussians, max_pages, page_gaussians;
};

struct Cut {
  std::vector<std::int32_t> draw, want, touched;
  std::int64_t culled = 0, drawn_gaussians = 0, ideal_gaussians = 0;
  double error_px = 0;
  bool complete = true;
};

class Walk {
 public:
  Walk(const Tree& tree, const std::vector<View>& views, double max_sigmas, const bool* resident,
       const bool* lost, const Limits& limits)
      : tree_(tree), views_(views), max_sigmas_(max_sigmas), resident_(resident), lost_(lost),
        limits_(limits), role_(tree.size, kUntouched), scales_(tree.size, kUntested) {}

  Cut run() {
    begin();
    while (refine_best()) {
    }
    finish();
    return std::move(cut_);
  }

 private:
  static constexpr double kUnseen = -1, kUntested = -2;

  // What a node is so far: met and visible; in the ideal cut; in the drawn one.
  enum Role : std::uint8_t { kUntouched = 0, kTouched = 1, kIdeal = 2, kDrawn = 4 };

  struct Open {  // a node of the ideal cut that has children and is not good enough
    double gain;
    std::int32_t node;
    bool operator<(const Open& other) const {  // the largest gain is next, then the first node
      return gain != other.gain ? gain < other.gain : node > other.node;
    }
  };

  void begin() {
    visible_.clear();
    for (std::int32_t root = 0; root < tree_.roots; ++root) {
      if (lost_[root]) continue;
      pages_ += pages_of(root);  // roots are pinned, seen or not
      if (seen(root)) visible_.push_back(root);
      else ++cut_.culled;
    }
    for (const std::int32_t root : visible_) cut_.ideal_gaussians += tree_.count[root];
    for (const std::int32_t root : visible_) {
      if (resident_[root]) draw(root);
    }
    meet_visible();
  }

  // Replaces the node that gains most by its children; false at the end.
  bool refine_best() {
    if (open_.empty()) return false;
    const std::int32_t node = open_.top().node;
    open_.pop();
    visible_.clear();
    const std::int32_t first = tree_.first_child[node], end = first + tree_.child_count[node];
    for (std::int32_t child = first; child < end; ++child) {
      if (seen(child)) visible_.push_back(child);
    }
    cut_.culled += tree_.child_count[node] - static_cast<std::int64_t>(visible_.size());
    const auto any_of = [&](const bool* flags, bool wanted) {
      return std::any_of(visible_.begin(), visible_.end(),
                         [&](std::int32_t child) { return flags[child] == wanted; });
    };
    if (any_of(lost_, true)) return true;
    const std::int64_t growth = growth_of(node);
    if (!fits(cut_.ideal_gaussians, growth)) return false;
    std::int64_t pages = pages_;
    for (const std::int32_t child : visible_) pages += pages_of(child);
    if (!visible_.empty() && pages > limits_.max_pages) return false;
    pages_ = pages;
    cut_.ideal_gaussians += growth;
    if ((role_[node] & kDrawn) && !any_of(resident_, false) && fits(cut_.drawn_gaussians, growth)) {
      role_[node] &= ~kDrawn;
      cut_.drawn_gaussians -= tree_.count[node];
      for (const std::int32_t child : visible_) draw(child);
    }
    role_[node] &= ~kIdeal;
    meet_visible();
    return true;
  }

  bool fits(std::int64_t before, std::int64_t growth) const {
    return before + growth <= std::max(before, limits_.max_gaussians);
  }

  // How much smaller the error of the picture gets for each Gaussian more: what is lost there,
  // in squared pixels, over what the visible children have more.
  double gain_of(std::int32_t node) {
    const double growth = std::max(static_cast<double>(growth_of(node)), 1.0);
    return tree_.loss[node] * scales_[node] * scales_[node] / growth;
  }
  std::int64_t growth_of(std::int32_t node) {
    std::int64_t growth = -tree_.count[node];
    const std::int32_t first = tree_.first_child[node], end = first + tree_.child_count[node];
    for (std::int32_t child = first; child < end; ++child) {
      if (seen(child)) growth += tree_.count[child];
    }
    return growth;
  }

  bool seen(std::int32_t node) {
    if (scales_[node] == kUntested) scales_[node] = projected_scale(node);
    return scales_[node] >= 0;
  }
  double error_px(std::int32_t node) const { return tree_.error[node] * scales_[node]; }

  // Pixels of a world unit, the most over the cameras that see the node; kUnseen if none does.
  double projected_scale(std::int32_t node) const {
    const float *lo = tree_.lo + 3 * node, *hi = tree_.hi + 3 * node;
    double largest = kUnseen;
    for (const View& view : views_) {
      const auto centre = [&](int k) {
        return 0.5 * (static_cast<double>(lo[k]) + hi[k]) - view.position[k];
      };
      const auto half = [&](int k) { return 0.5 * (static_cast<double>(hi[k]) - lo[k]); };
      const Box box{{centre(0), centre(1), centre(2)}, {half(0), half(1), half(2)}};
      const double reach = tree_.max_scale[node];
      if (!(view.fisheye() ? in_fisheye(view, box, reach, max_sigmas_)
                           : in_planes(view, box, reach)))
        continue;
      double scale = view.focal;
      if (!view.ortho()) {
        scale = scale / std::max(box.distance(), view.near);
        scale = scale * weight(view, box);
      }
      largest = std::max(largest, scale);
    }
    return largest;
  }

  // The visible nodes join the ideal cut.
  void meet_visible() {
    for (const std::int32_t node : visible_) {
      role_[node] |= kTouched | kIdeal;
      if (tree_.child_count[node] && error_px(node) >= limits_.error_px) {
        open_.push({gain_of(node), node});
      }
    }
    const auto first = static_cast<std::ptrdiff_t>(cut_.want.size());
    for (const std::int32_t node : visible_) {
      if (!resident_[node]) cut_.want.push_back(node);
    }
    std::sort(cut_.want.begin() + first, cut_.want.end(), [&](std::int32_t a, std::int32_t b) {
      return scales_[a] != scales_[b] ? scales_[a] > scales_[b] : a < b;
    });
  }

  void draw(std::int32_t node) {
    role_[node] |= kDrawn;
    cut_.drawn_gaussians += tree_.count[node];
  }

  void finish() {
    for (std::size_t node = 0; node < tree_.size; ++node) {
      if (!role_[node]) continue;
      cut_.touched.push_back(static_cast<std::int32_t>(node));
      const bool drawn = role_[node] & kDrawn;
      if (drawn != static_cast<bool>(role_[node] & kIdeal)) cut_.complete = false;
      if (!drawn) continue;
      cut_.draw.push_back(static_cast<std::int32_t>(node));
      cut_.error_px = std::max(cut_.error_px, error_px(node));
    }
  }

  std::int64_t pages_of(std::int32_t node) const {
    return (tree_.count[node] + limits_.page_gaussians - 1) / limits_.page_gaussians;
  }

  const Tree& tree_;
  const std::vector<View>& views_;
  const double max_sigmas_;
  const bool *resident_, *lost_;
  const Limits limits_;
  std::vector<std::uint8_t> role_;
  std::vector<double> scales_;  // pixels of a world unit; kUnseen, kUntested
  std::priority_queue<Open> open_;
  std::vector<std::int32_t> visible_;  // of the roots or of one node's children
  std::int64_t pages_ = 0;
  Cut cut_;
};

std::vector<View> views_from(const Doubles& packed) {
  require(packed.ndim() == 2 && packed.shape(1) == kViewDoubles, "views must be [C, 55]");
  std::vector<View> views(packed.shape(0));
  std::copy_n(packed.data(), packed.size(), reinterpret_cast<double*>(views.data()));
  return views;
}

Tree tree_from(const Floats& lo, const Floats& hi, const Floats& max_scale, const Floats& error,
               const Floats& loss, const Ints& count, const Ints& first_child,
               const Ints& child_count, int roots) {
  const std::size_t size = count.shape(0);
  const auto boxes = [&](const Floats& a) {
    return a.ndim() == 2 && a.shape(0) == size && a.shape(1) == 3;
  };
  const auto column = [&](const Floats& a) { return a.ndim() == 1 && a.shape(0) == size; };
  require(boxes(lo) && boxes(hi) && column(max_scale) && column(error) &&
              column(loss) &&
              first_child.shape(0) == size && child_count.shape(0) == size && roots >= 0 &&
              static_cast<std::size_t>(roots) <= size,
          "the tree's columns differ in length");
  for (std::size_t i = 0; i < size; ++i) {
    const std::int64_t first = first_child.data()[i], children = child_count.data()[i];
    require(children >= 0 && (children == 0 || (first > static_cast<std::int64_t>(i) &&
                                                first + children <= std::int64_t(size))),
            "the tree's children are out of range");
  }
  return {size,        lo.data(),    hi.data(),          max_scale.data(),   error.data(),
          loss.data(), count.data(), first_child.data(), child_count.data(), roots};
}

NewInts to_array(std::vector<std::int32_t>&& values) {
  auto* owned = new std::vector<std::int32_t>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept {
    delete static_cast<std::vector<std::int32_t>*>(p);
  });
  return NewInts(owned->data(), {owned->size()}, owner);
}

auto select(const Floats& lo, const Floats& hi, const Floats& max_scale, const Floats& error,
            const Floats& loss, const Ints& count, const Ints& first_child,
            const Ints& child_count, int roots, const Bools& resident, const Bools& lost, const Doubles& packed_views,
            double max_sigmas, double error_px, std::int64_t max_gaussians,
            std::int64_t max_pages, std::int64_t page_gaussians) {
  require(resident.shape(0) == count.shape(0) && lost.shape(0) == count.shape(0),
          "one flag for each node");
  require(page_gaussians > 0, "a page must hold a Gaussian");
  Cut cut;
  {
    nb::gil_scoped_release release;
    const Tree tree =
        tree_from(lo, hi, max_scale, error, loss, count, first_child, child_count, roots);
    const std::vector<View> views = views_from(packed_views);
    const Limits limits{error_px, max_gaussians, max_pages, page_gaussians};
    cut = Walk(tree, views, max_sigmas, resident.data(), lost.data(), limits).run();
  }
  return std::make_tuple(to_array(std::move(cut.draw)), to_array(std::move(cut.want)),
                         to_array(std::move(cut.touched)), cut.culled, cut.drawn_gaussians,
                         cut.ideal_gaussians, cut.error_px, cut.complete);
}

}  // namespace

void bind_select(nb::module_& m) {
  m.def("select", &select, "lo"_a, "hi"_a, "max_scale"_a, "error"_a, "loss"_a, "count"_a,
        "first_child"_a, "child_count"_a, "roots"_a, "resident"_a, "lost"_a, "views"_a, "max_sigmas"_a,
        "error_px"_a, "max_gaussians"_a, "max_pages"_a, "page_gaussians"_a,
        "One cut through the tree for all views; see scene_store/lod.py.");
}

}  // namespace belvedere::store
