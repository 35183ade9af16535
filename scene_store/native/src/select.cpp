// The walk of level-of-detail selection (scene_store/lod.py, which says what it decides).
// Only nodes that it meets are tested for visibility.
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstdint>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "view.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bools = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

struct Tree {
  std::size_t size;
  const float *lo, *hi, *max_scale, *error, *loss;
  const std::int32_t *count, *first_child, *child_count;
  std::int32_t roots;
};

struct Limits {
  double error_px;
  std::int64_t max_gaussians, page_gaussians;
};

// The memory of some devices: what it holds, and what they see of the scene.
struct Pool {
  const bool* resident;
  std::int64_t max_pages;
  std::vector<View> views;  // none for all that the frame shows
};
using Pools = std::uint64_t;  // a set of them
constexpr std::size_t kMostPools = 64;

struct Cut {
  std::vector<std::int32_t> draw, want, touched;
  std::vector<Pools> needed_by;  // of each that was touched
  std::int64_t culled = 0, drawn_gaussians = 0, ideal_gaussians = 0;
  double error_px = 0;
  bool complete = true;
};

class Walk {
 public:
  Walk(const Tree& tree, const std::vector<View>& views, double max_sigmas,
       const std::vector<Pool>& pools, const bool* lost, const Limits& limits)
      : tree_(tree), views_(views), max_sigmas_(max_sigmas), pools_(pools), lost_(lost),
        limits_(limits), every_(all_of(pools.size())), role_(tree.size, kUntouched),
        scales_(tree.size, kUntested), pages_(pools.size(), 0) {
    is_divided_ = std::any_of(pools.begin(), pools.end(),
                              [](const Pool& pool) { return !pool.views.empty(); });
    if (is_divided_) needed_by_.assign(tree.size, 0);
    is_alone_ = !is_divided_ && pools.size() == 1;
  }

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
      for (auto& pages : pages_) pages += pages_of(root);  // roots are pinned, seen or not
      if (seen(root)) visible_.push_back(root);
      else ++cut_.culled;
    }
    for (const std::int32_t root : visible_) {
      cut_.ideal_gaussians += tree_.count[root];
      find_needed_by(root, every_);
    }
    for (const std::int32_t root : visible_) {
      if (drawable(root)) draw(root);
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
    if (std::any_of(visible_.begin(), visible_.end(),
                    [&](std::int32_t child) { return lost_[child]; }))
      return true;
    const std::int64_t growth = growth_of(node);
    if (!fits(cut_.ideal_gaussians, growth)) return false;
    for (const std::int32_t child : visible_) find_needed_by(child, needed_by(node));
    if (!take_pages()) return full_ != every_;  // others may still have room
    cut_.ideal_gaussians += growth;
    if ((role_[node] & kDrawn) &&
        std::all_of(visible_.begin(), visible_.end(),
                    [&](std::int32_t child) { return drawable(child); }) &&
        fits(cut_.drawn_gaussians, growth)) {
      role_[node] &= ~kDrawn;
      cut_.drawn_gaussians -= tree_.count[node];
      for (const std::int32_t child : visible_) draw(child);
    }
    role_[node] &= ~kIdeal;
    meet_visible();
    return true;
  }

  // Takes the pages of the visible nodes in every pool that needs them; none, if one is full then.
  bool take_pages() {
    if (is_alone_) {
      std::int64_t pages = pages_[0];
      for (const std::int32_t child : visible_) pages += pages_of(child);
      if (!visible_.empty() && pages > pools_[0].max_pages) full_ = every_;
      else pages_[0] = pages;
      return !full_;
    }
    Pools needing = 0;
    for (const std::int32_t child : visible_) needing |= needed_by(child);
    Pools over = needing & full_;  // what is less urgent does not pass what did not fit
    with_more_ = pages_;
    for (std::size_t pool = 0; pool < pages_.size(); ++pool) {
      if (!(needing >> pool & 1)) continue;
      for (const std::int32_t child : visible_) {
        if (needed_by(child) >> pool & 1) with_more_[pool] += pages_of(child);
      }
      if (with_more_[pool] > pools_[pool].max_pages) over |= Pools{1} << pool;
    }
    full_ |= over;
    if (over) return false;
    pages_.swap(with_more_);
    return true;
  }

  static Pools all_of(std::size_t pools) {
    return pools < kMostPools ? (Pools{1} << pools) - 1 : ~Pools{0};
  }

  Pools needed_by(std::int32_t node) const { return is_divided_ ? needed_by_[node] : every_; }

  // Who sees nothing of a parent sees nothing of its children, whatever rounding says.
  void find_needed_by(std::int32_t node, Pools parents) {
    if (!is_divided_) return;
    Pools needing = 0;
    for (std::size_t pool = 0; pool < pools_.size(); ++pool) {
      const auto& views = pools_[pool].views;
      if ((parents >> pool & 1) &&
          (views.empty() || std::any_of(views.begin(), views.end(), [&](const View& view) {
             return in_view(view, box_of(node, view), tree_.max_scale[node]);
           })))
        needing |= Pools{1} << pool;
    }
    needed_by_[node] = needing;
  }

  bool drawable(std::int32_t node) const {
    if (is_alone_) return pools_[0].resident[node];
    const Pools needing = needed_by(node);
    for (std::size_t pool = 0; pool < pools_.size(); ++pool) {
      if ((needing >> pool & 1) && !pools_[pool].resident[node]) return false;
    }
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
    double largest = kUnseen;
    for (const View& view : views_) {
      const Box box = box_of(node, view);
      if (!in_view(view, box, tree_.max_scale[node])) continue;
      double scale = view.focal;
      if (!view.ortho()) {
        scale = scale / std::max(box.distance(), view.near);
        scale = scale * weight(view, box);
      }
      largest = std::max(largest, scale);
    }
    return largest;
  }

  Box box_of(std::int32_t node, const View& view) const {
    const float *lo = tree_.lo + 3 * node, *hi = tree_.hi + 3 * node;
    const auto centre = [&](int k) {
      return 0.5 * (static_cast<double>(lo[k]) + hi[k]) - view.position[k];
    };
    const auto half = [&](int k) { return 0.5 * (static_cast<double>(hi[k]) - lo[k]); };
    return {{centre(0), centre(1), centre(2)}, {half(0), half(1), half(2)}};
  }

  bool in_view(const View& view, const Box& box, double reach) const {
    return view.fisheye() ? in_fisheye(view, box, reach, max_sigmas_) : in_planes(view, box, reach);
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
      if (!drawable(node)) cut_.want.push_back(node);
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
      cut_.needed_by.push_back(needed_by(static_cast<std::int32_t>(node)));
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
  const std::vector<Pool>& pools_;
  const bool* lost_;
  const Limits limits_;
  const Pools every_;
  std::vector<std::uint8_t> role_;
  std::vector<double> scales_;  // pixels of a world unit; kUnseen, kUntested
  std::priority_queue<Open> open_;
  std::vector<std::int32_t> visible_;  // of the roots or of one node's children
  bool is_divided_ = false;       // whether a pool needs less than all that is shown
  bool is_alone_ = false;         // whether one pool needs all of it
  std::vector<Pools> needed_by_;  // of nodes that were met, if so
  std::vector<std::int64_t> pages_, with_more_;  // taken of each pool; and with some more nodes
  Pools full_ = 0;
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

template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_array(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {owned->data(), {owned->size()}, owner};
}

std::vector<Pool> pools_from(const Flags& resident, const Longs& max_pages, const Doubles& views,
                             const Ints& pool_of_view) {
  const std::size_t count = max_pages.shape(0);
  require(count > 0 && count <= kMostPools && resident.shape(0) == count, "1 to 64 pools");
  std::vector<Pool> pools(count);
  for (std::size_t i = 0; i < count; ++i) {
    pools[i].resident = resident.data() + i * resident.shape(1);
    pools[i].max_pages = max_pages.data()[i];
  }
  const std::vector<View> packed = views_from(views);
  require(pool_of_view.shape(0) == packed.size(), "one pool for each of its views");
  for (std::size_t i = 0; i < packed.size(); ++i) {
    const std::int32_t pool = pool_of_view.data()[i];
    require(pool >= 0 && static_cast<std::size_t>(pool) < count, "there is no such pool");
    pools[pool].views.push_back(packed[i]);
  }
  return pools;
}

auto select(const Floats& lo, const Floats& hi, const Floats& max_scale, const Floats& error,
            const Floats& loss, const Ints& count, const Ints& first_child,
            const Ints& child_count, int roots, const Flags& resident, const Bools& lost,
            const Doubles& packed_views, double max_sigmas, double error_px,
            std::int64_t max_gaussians, const Longs& max_pages, std::int64_t page_gaussians,
            const Doubles& pool_views, const Ints& pool_of_view) {
  require(resident.shape(1) == count.shape(0) && lost.shape(0) == count.shape(0),
          "one flag for each node");
  require(page_gaussians > 0, "a page must hold a Gaussian");
  Cut cut;
  {
    nb::gil_scoped_release release;
    const Tree tree =
        tree_from(lo, hi, max_scale, error, loss, count, first_child, child_count, roots);
    const std::vector<View> views = views_from(packed_views);
    const std::vector<Pool> pools = pools_from(resident, max_pages, pool_views, pool_of_view);
    const Limits limits{error_px, max_gaussians, page_gaussians};
    cut = Walk(tree, views, max_sigmas, pools, lost.data(), limits).run();
  }
  return std::make_tuple(to_array(std::move(cut.draw)), to_array(std::move(cut.want)),
                         to_array(std::move(cut.touched)), cut.culled, cut.drawn_gaussians,
                         cut.ideal_gaussians, cut.error_px, cut.complete,
                         to_array(std::move(cut.needed_by)));
}

}  // namespace

void bind_select(nb::module_& m) {
  m.def("select", &select, "lo"_a, "hi"_a, "max_scale"_a, "error"_a, "loss"_a, "count"_a,
        "first_child"_a, "child_count"_a, "roots"_a, "resident"_a, "lost"_a, "views"_a,
        "max_sigmas"_a, "error_px"_a, "max_gaussians"_a, "max_pages"_a, "page_gaussians"_a,
        "pool_views"_a, "pool_of_view"_a,
        "One cut through the tree for all views and pools; see scene_store/lod.py.");
}

}  // namespace belvedere::store
