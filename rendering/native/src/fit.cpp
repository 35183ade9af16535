#include "fit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <new>

#include "sort.h"
#include "thread_pool.h"

namespace belvedere {
namespace {

constexpr std::size_t kRowsOfTask = 2048;

// All splats of the picture, by depth; returns how many.
std::size_t project(const FitKernels& kernels, const FitModel& model, const CameraParams& camera,
                    int threads, FitWorkspace& w) {
  FitSplat* splats = w.splats.resize_uncleared(model.count);
  const std::size_t tasks = (model.count + kRowsOfTask - 1) / kRowsOfTask;
  std::vector<std::size_t> found(tasks);
  ThreadPool::instance().parallel_for(tasks, threads, [&](std::size_t task, int) {
    const std::size_t first = task * kRowsOfTask, end = std::min(first + kRowsOfTask, model.count);
    found[task] = kernels.project(model, camera, first, end, splats + first);
  });
  DepthItem* depths = w.depths.resize_uncleared(model.count);
  std::size_t count = 0;
  for (std::size_t task = 0; task < tasks; ++task) {
    for (std::size_t i = 0; i < found[task]; ++i) {
      const std::size_t at = task * kRowsOfTask + i;
      depths[count++] = {std::bit_cast<std::uint32_t>(splats[at].depth),
                         static_cast<std::uint32_t>(at)};
    }
  }
  sort_by_depth(depths, w.scratch.resize_uncleared(count), count);
  FitSplat* sorted = w.sorted.resize_uncleared(count);
  for (std::size_t i = 0; i < count; ++i) sorted[i] = splats[depths[i].position];
  return count;
}

struct Tiles {
  int columns, rows;
};

// The tiles that a splat's box touches, last ones included.
struct Box {
  int x0, x1, y0, y1;
  std::size_t tiles() const { return static_cast<std::size_t>(x1 - x0 + 1) * (y1 - y0 + 1); }
};

Box box_of(const FitSplat& s, const Tiles& tiles) {
  const auto tile_of = [](float pixel, int most) {
    return std::clamp(static_cast<int>(std::floor(std::clamp(pixel, -1e6f, 1e6f) / kFitTile)), 0,
                      most - 1);
  };
  return {tile_of(s.x - s.extent_x, tiles.columns), tile_of(s.x + s.extent_x, tiles.columns),
          tile_of(s.y - s.extent_y, tiles.rows), tile_of(s.y + s.extent_y, tiles.rows)};
}

// Calls `visit` with each tile that a splat's box touches.
template <typename Visit>
void each_tile(const FitSplat& s, const Tiles& tiles, const Visit& visit) {
  const Box box = box_of(s, tiles);
  for (int y = box.y0; y <= box.y1; ++y) {
    for (int x = box.x0; x <= box.x1; ++x) visit(static_cast<std::size_t>(y) * tiles.columns + x);
  }
}

// Numbers the pairs of splats and tiles; returns how many there are.
std::size_t number_pairs(const Tiles& tiles, FitSplat* splats, std::size_t count) {
  std::size_t pairs = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t more = box_of(splats[i], tiles).tiles();
    if (pairs + more > std::numeric_limits<std::uint32_t>::max()) throw std::bad_alloc();
    splats[i].first_pair = static_cast<std::uint32_t>(pairs);
    splats[i].pairs = static_cast<std::uint32_t>(more);
    pairs += more;
  }
  return pairs;
}

// The splats of each tile, front to back; returns the number of pairs. Throws std::bad_alloc if
// there is no memory for them, or more than numbers.
std::size_t bin(const Tiles& tiles, std::size_t count, FitWorkspace& w) {
  std::vector<std::uint32_t>& start = w.tile_start;
  start.assign(static_cast<std::size_t>(tiles.columns) * tiles.rows + 1, 0);
  FitSplat* splats = w.sorted.data();
  const std::size_t pairs = number_pairs(tiles, splats, count);
  for (std::size_t i = 0; i < count; ++i) {
    each_tile(splats[i], tiles, [&](std::size_t tile) { ++start[tile + 1]; });
  }
  for (std::size_t tile = 1; tile < start.size(); ++tile) start[tile] += start[tile - 1];
  FitItem* items = w.items.resize_uncleared(pairs);
  std::vector<std::uint32_t> next(start.begin(), start.end() - 1);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t pair = splats[i].first_pair;
    each_tile(splats[i], tiles, [&](std::size_t tile) {
      items[next[tile]++] = {static_cast<std::uint32_t>(i), pair++};
    });
  }
  w.pairs.resize_uncleared(pairs);
  return pairs;
}

}  // namespace

FitResult fit_picture(const FitKernels& kernels, const FitModel& model, const CameraParams& camera,
                      const FitTarget& target, const FitRates* rates, int threads, float* image,
                      FitWorkspace& w) {
  const std::size_t count = project(kernels, model, camera, threads, w);
  const Tiles tiles{(camera.width + kFitTile - 1) / kFitTile,
                    (camera.height + kFitTile - 1) / kFitTile};
  const std::size_t pairs = bin(tiles, count, w);
  const std::size_t tile_count = w.tile_start.size() - 1;
  std::vector<double> errors(tile_count);
  ThreadPool::instance().parallel_for(tile_count, threads, [&](std::size_t i, int) {
    FitTile tile{};
    tile.splats = w.sorted.data();
    tile.items = w.items.data() + w.tile_start[i];
    tile.count = w.tile_start[i + 1] - w.tile_start[i];
    tile.x = static_cast<int>(i % tiles.columns) * kFitTile;
    tile.y = static_cast<int>(i / tiles.columns) * kFitTile;
    tile.width = camera.width, tile.height = camera.height;
    tile.target = target;
    tile.pairs = rates ? w.pairs.data() : nullptr;
    tile.image = image;
    kernels.tile(tile);
    errors[i] = tile.squared_error;
  });
  if (rates) {
    const std::size_t tasks = (count + kRowsOfTask - 1) / kRowsOfTask;
    ThreadPool::instance().parallel_for(tasks, threads, [&](std::size_t task, int) {
      const std::size_t first = task * kRowsOfTask, end = std::min(first + kRowsOfTask, count);
      kernels.update(model, camera, *rates, w.sorted.data(), w.pairs.data(), first, end);
    });
  }
  FitResult result{0, count, pairs};
  for (const double error : errors) result.squared_error += error;
  return result;
}

}  // namespace belvedere
