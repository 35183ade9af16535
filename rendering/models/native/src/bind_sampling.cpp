// Samples of rays: marching, inverse cumulative functions, compositing.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "buffer.h"
#include "march.h"
#include "sampling.h"

namespace belvedere::neural {
namespace {

using namespace nb::literals;

using BoolGrids = nb::ndarray<const bool, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using NewFloats = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using NewInts = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;

constexpr std::size_t kRaysPerTask = 64;
constexpr std::size_t kMostSamples = std::size_t{1} << 28;

// Calls task(first, end, worker) for ranges of `count` things.
template <typename Task>
void for_ranges(std::size_t count, std::size_t range, int threads, const Task& task) {
  ThreadPool::instance().parallel_for((count + range - 1) / range, threads,
                                      [&](std::size_t index, int worker) {
                                        task(index * range, std::min(count, (index + 1) * range),
                                             worker);
                                      });
}

class Marcher {
 public:
  Marcher(const BoolGrids& cells, double min_step, double max_step, double cone_angle)
      : occupancy_(checked(cells), static_cast<int>(cells.shape(0)),
                   static_cast<int>(cells.shape(1))),
        rule_{min_step, max_step, cone_angle} {
    require(min_step >= 1e-6 && max_step >= min_step && max_step <= 1e6,
            "steps must be 1e-6 to 1e6, and the largest not below the smallest");
    require(cone_angle >= 0 && cone_angle <= 1, "the cone's angle is 0 to 1");
  }
  const Occupancy& occupancy() const { return occupancy_; }
  const StepRule& rule() const { return rule_; }

 private:
  static const bool* checked(const BoolGrids& cells) {
    require(cells.shape(0) <= 16 && cells.shape(1) <= 1024, "a grid of absurd size");
    require(cells.shape(1) == cells.shape(2) && cells.shape(2) == cells.shape(3),
            "grids must be cubes, [K, R, R, R]");
    return cells.data();
  }

  Occupancy occupancy_;
  StepRule rule_;
};

template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> as_array(std::unique_ptr<T[]> values, std::size_t count) {
  nb::capsule owner(values.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return {values.release(), {count}, owner};
}

struct MarchedRays {
  std::size_t rays;
  std::vector<std::int32_t> counts;
  Buffer<float> t, length;  // [rays][most]
};

std::tuple<NewInts, NewFloats, NewFloats> packed(const MarchedRays& marched, std::size_t most) {
  std::size_t total = 0;
  for (const std::int32_t count : marched.counts) total += count;
  std::unique_ptr<std::int32_t[]> ray(new std::int32_t[total]);
  std::unique_ptr<float[]> t(new float[total]), length(new float[total]);
  std::size_t next = 0;
  for (std::size_t r = 0; r < marched.rays; ++r) {
    const std::size_t count = marched.counts[r];
    std::fill_n(ray.get() + next, count, static_cast<std::int32_t>(r));
    std::copy_n(marched.t.data() + r * most, count, t.get() + next);
    std::copy_n(marched.length.data() + r * most, count, length.get() + next);
    next += count;
  }
  return {as_array(std::move(ray), total), as_array(std::move(t), total),
          as_array(std::move(length), total)};
}

std::tuple<NewInts, NewFloats, NewFloats> march(const Marcher& marcher, const FloatMatrix& origins,
                                                const FloatMatrix& directions,
                                                const FloatVector& enter, const FloatVector& first,
                                                const FloatVector& last, const MutableInts& cursors,
                                                int most, bool skips, int threads) {
  MarchedRays marched{};
  const std::size_t rays = marched.rays = origins.shape(1);
  require(origins.shape(0) == 3 && directions.shape(0) == 3 && directions.shape(1) == rays,
          "origins and directions must be [3, R]");
  require(enter.shape(0) == rays && first.shape(0) == rays && last.shape(0) == rays &&
              cursors.shape(0) == rays,
          "enter, first, last and cursors must be [R]");
  require(rays < kMarchDone && most > 0 && most <= 1 << 20 && rays <= kMostSamples / most,
          "too many samples at once");
  threads = thread_count(threads);
  {
    nb::gil_scoped_release release;
    marched.counts.resize(rays);
    marched.t.resize_uncleared(rays * most);
    marched.length.resize_uncleared(rays * most);
    for_ranges(rays, kRaysPerTask, threads, [&](std::size_t begin, std::size_t end, int) {
      for (std::size_t r = begin; r < end; ++r) {
        MarchRay ray{};
        for (int d = 0; d < 3; ++d) {
          ray.origin[d] = origins.data()[d * rays + r];
          ray.direction[d] = directions.data()[d * rays + r];
        }
        ray.enter = enter.data()[r], ray.first = first.data()[r], ray.last = last.data()[r];
        marched.counts[r] =
            march_ray(marcher.occupancy(), marcher.rule(), ray, skips, most, cursors.data()[r],
                      marched.t.data() + r * most, marched.length.data() + r * most);
      }
    });
  }
  return packed(marched, most);
}

// Rows of `n` values each become rows of `outputs`.
template <typename Task>
void for_rows(std::size_t rows, int threads, const Task& task) {
  threads = thread_count(threads);
  nb::gil_scoped_release release;
  std::vector<RayScratch> scratch(threads);
  for_ranges(rows, kRaysPerTask, threads, [&](std::size_t begin, std::size_t end, int worker) {
    for (std::size_t r = begin; r < end; ++r) task(r, scratch[worker]);
  });
}

constexpr std::size_t kMostBins = 1 << 16;

void borders_from_weights_all(const FloatMatrix& borders, const FloatMatrix& weights,
                              const MutableMatrix& out, float padding, int threads) {
  const std::size_t rays = weights.shape(0), n = weights.shape(1), count = out.shape(1) - 1;
  require(n > 0 && n <= kMostBins && out.shape(1) >= 2 && count <= kMostBins,
          "1 to 65536 bins of a ray");
  require(borders.shape(0) == rays && borders.shape(1) == n + 1, "borders must be [R, n + 1]");
  require(out.shape(0) == rays, "the output must be [R, count + 1]");
  require(padding >= 0 && padding <= 1e6f, "the padding must not be negative");
  for_rows(rays, threads, [&](std::size_t r, RayScratch& scratch) {
    borders_from_weights(borders.data() + r * (n + 1), weights.data() + r * n,
                         static_cast<int>(n), static_cast<int>(count), padding, scratch,
                         out.data() + r * (count + 1));
  });
}

void samples_from_weights_all(const FloatMatrix& t, const FloatMatrix& weights,
                              const MutableMatrix& out, int threads) {
  const std::size_t rays = t.shape(0), n = t.shape(1);
  require(n >= 3 && n <= kMostBins, "3 to 65536 samples of a ray");
  require(weights.shape(0) == rays && weights.shape(1) == n, "weights must be [R, n]");
  require(out.shape(0) == rays && out.shape(1) > n && out.shape(1) - n <= kMostBins,
          "the output must be [R, n + count]");
  const std::size_t outputs = out.shape(1);
  for_rows(rays, threads, [&](std::size_t r, RayScratch& scratch) {
    samples_from_weights(t.data() + r * n, weights.data() + r * n, static_cast<int>(n),
                         static_cast<int>(outputs - n), scratch, out.data() + r * outputs);
  });
}

void weights_all(const FloatMatrix& densities, const FloatMatrix& lengths,
                 const MutableMatrix& out, const std::string& isa, int threads) {
  const std::size_t rays = densities.shape(0), n = densities.shape(1);
  require(lengths.shape(0) == rays && lengths.shape(1) == n, "lengths must be [R, n]");
  require(out.shape(0) == rays && out.shape(1) == n, "the output must be [R, n]");
  const Kernels& kernels = kernels_named(isa);
  for_rows(rays, threads, [&](std::size_t r, RayScratch&) {
    float* const row = out.data() + r * n;
    for (std::size_t i = 0; i < n; ++i) {
      row[i] = densities.data()[r * n + i] * lengths.data()[r * n + i];
    }
    kernels.opacities(row, n);
    float transmittance = 1;
    for (std::size_t i = 0; i < n; ++i) {
      const float alpha = row[i];
      row[i] = transmittance * alpha;
      transmittance *= 1.0f - alpha;
    }
  });
}

// Where ranges of about `range` samples end without dividing a ray. Empty if the rays are not
// ascending, or not there.
std::vector<std::size_t> range_ends(const std::int32_t* ray, std::size_t count, std::size_t range,
                                    std::size_t rays) {
  std::vector<std::size_t> ends;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (ray[i] < 0 || static_cast<std::size_t>(ray[i]) >= rays) return {};
    if (i == 0 || ray[i] == ray[i - 1]) continue;
    if (ray[i] < ray[i - 1]) return {};
    if (i - begin >= range) ends.push_back(begin = i);
  }
  ends.push_back(count);
  return ends;
}

using AccumulatorTuple =
    std::tuple<MutableMatrix, MutableVector, MutableVector, MutableVector, MutableMatrix>;

void composite_all(const IntVector& ray, const FloatVector& t, const FloatVector& lengths,
                   const FloatVector& densities, const FloatMatrix& colors, float length_scale,
                   float opaque, const AccumulatorTuple& into, const std::string& isa,
                   int threads) {
  const auto& [color, transmittance, depth, median, last_color] = into;
  const std::size_t samples = ray.shape(0), rays = transmittance.shape(0);
  require(t.shape(0) == samples && lengths.shape(0) == samples && densities.shape(0) == samples,
          "t, lengths and densities must be [M]");
  require(colors.shape(0) == 3 && colors.shape(1) == samples, "colours must be [3, M]");
  require(color.shape(0) == 3 && color.shape(1) == rays && last_color.shape(0) == 3 &&
              last_color.shape(1) == rays && depth.shape(0) == rays && median.shape(0) == rays,
          "accumulators must be of as many rays");
  const Kernels& kernels = kernels_named(isa);
  threads = thread_count(threads);
  const Accumulators accumulators{color.data(), transmittance.data(), depth.data(),
                                  median.data(), last_color.data(), rays};
  nb::gil_scoped_release release;
  const std::vector<std::size_t> ends = range_ends(ray.data(), samples, 4096, rays);
  require(!ends.empty(), "samples must be ordered by rays that are there");
  Buffer<float> alphas;
  alphas.resize_uncleared(samples);
  const PackedSamples packed{ray.data(), t.data(), alphas.data(), colors.data(), samples};
  ThreadPool::instance().parallel_for(ends.size(), threads, [&](std::size_t index, int) {
    const std::size_t begin = index ? ends[index - 1] : 0, end = ends[index];
    for (std::size_t i = begin; i < end; ++i) {
      alphas.data()[i] = densities.data()[i] * (lengths.data()[i] * length_scale);
    }
    kernels.opacities(alphas.data() + begin, end - begin);
    composite(packed, begin, end, opaque, accumulators);
  });
}

}  // namespace

void bind_sampling(nb::module_& m) {
  nb::class_<Marcher>(m, "Marcher")
      .def(nb::init<const BoolGrids&, double, double, double>(), "occupied"_a, "min_step"_a,
           "max_step"_a, "cone_angle"_a)
      .def_prop_ro("nbytes", [](const Marcher& self) { return self.occupancy().bytes(); });
  m.def("march", &march, "marcher"_a, "origins"_a, "directions"_a, "enter"_a, "first"_a, "last"_a,
        "cursors"_a, "most"_a, "skips"_a, "threads"_a);
  m.def("borders_from_weights", &borders_from_weights_all, "borders"_a, "weights"_a, "out"_a,
        "padding"_a, "threads"_a);
  m.def("samples_from_weights", &samples_from_weights_all, "t"_a, "weights"_a, "out"_a,
        "threads"_a);
  m.def("weights", &weights_all, "densities"_a, "lengths"_a, "out"_a, "isa"_a, "threads"_a);
  m.def("composite", &composite_all, "ray"_a, "t"_a, "lengths"_a, "densities"_a, "colors"_a,
        "length_scale"_a, "opaque"_a, "into"_a, "isa"_a, "threads"_a);
}

}  // namespace belvedere::neural
