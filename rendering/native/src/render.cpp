#include "render.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "thread_pool.h"

namespace belvedere {
namespace {

class Stopwatch {
 public:
  double lap_ms() {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::milli> lap = now - last_;
    last_ = now;
    return lap.count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Survivors of all chunks in scene order, ready to be sorted.
KeyedSlot* collect(const PackedScene& scene, std::size_t visible, int threads, Workspace& w) {
  std::vector<std::size_t> begin(w.survivors.size());
  std::exclusive_scan(w.survivors.begin(), w.survivors.end(), begin.begin(), std::size_t{0});
  KeyedSlot* items = w.items.resize_uncleared(visible);
  w.scratch.resize_uncleared(visible);
  ThreadPool::instance().parallel_for(scene.chunks.size(), threads, [&](std::size_t chunk) {
    const std::size_t slot = chunk * kChunkGaussians;
    for (std::uint32_t i = 0; i < w.survivors[chunk]; ++i) {
      items[begin[chunk] + i] = {w.depth_keys.data()[slot + i],
                                 static_cast<std::uint32_t>(slot + i)};
    }
  });
  return items;
}

}  // namespace

std::unique_ptr<Workspace> WorkspacePool::take() {
  std::lock_guard guard(mutex_);
  if (idle_.empty()) return std::make_unique<Workspace>();
  auto workspace = std::move(idle_.back());
  idle_.pop_back();
  return workspace;
}

void WorkspacePool::give_back(std::unique_ptr<Workspace> workspace) {
  std::lock_guard guard(mutex_);
  idle_.push_back(std::move(workspace));
}

std::size_t project(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
                    const RenderOptions& options, const CancelFlag& cancel, Workspace& w) {
  const std::size_t slots = scene.blocks * kPackLanes;
  const ProjectTask task{&scene,
                         &camera,
                         std::min(options.sh_degree, scene.sh_degree),
                         options.antialiased,
                         w.splats.resize_uncleared(slots),
                         w.rects.resize_uncleared(slots),
                         w.depth_keys.resize_uncleared(slots)};
  w.survivors.assign(scene.chunks.size(), 0);
  ThreadPool::instance().parallel_for(
      scene.chunks.size(), options.threads, [&](std::size_t chunk) {
        if (cancel.load(std::memory_order_relaxed)) return;
        w.survivors[chunk] = kernels.project_chunk(task, chunk);
      });
  return std::accumulate(w.survivors.begin(), w.survivors.end(), std::size_t{0});
}

bool render(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
            const RenderOptions& options, const CancelFlag& cancel, const ImageTargets& targets,
            Workspace& w, RenderStats& stats) {
  Stopwatch watch;
  const auto cancelled = [&] { return cancel.load(std::memory_order_relaxed); };
  stats.visible = project(kernels, scene, camera, options, cancel, w);
  stats.project_ms = watch.lap_ms();
  if (cancelled()) return false;

  KeyedSlot* const items = collect(scene, stats.visible, options.threads, w);
  const KeyedSlot* sorted =
      radix_sort(items, w.scratch.data(), stats.visible, options.threads);
  stats.sort_ms = watch.lap_ms();
  if (cancelled()) return false;

  const TileGrid grid{(camera.width + kTileSize - 1) / kTileSize,
                      (camera.height + kTileSize - 1) / kTileSize};
  bin_tiles(sorted, stats.visible, w.splats.data(), w.rects.data(), grid, options.threads, w.lists);
  stats.tile_pairs = w.lists.begin.back();
  stats.bin_ms = watch.lap_ms();
  if (cancelled()) return false;

  // Longest tiles first, so that no thread is left alone with a long one at the end.
  std::vector<int> tiles(static_cast<std::size_t>(grid.tiles()));
  std::iota(tiles.begin(), tiles.end(), 0);
  const auto length = [&](int tile) { return w.lists.begin[tile + 1] - w.lists.begin[tile]; };
  std::stable_sort(tiles.begin(), tiles.end(), [&](int a, int b) { return length(a) > length(b); });
  ThreadPool::instance().parallel_for(tiles.size(), options.threads, [&](std::size_t i) {
    if (cancelled()) return;
    const int tile = tiles[i];
    CompositeTask task{w.splats.data(),
                       w.lists.slots.data() + w.lists.begin[tile],
                       length(tile),
                       tile % grid.columns * kTileSize,
                       tile / grid.columns * kTileSize,
                       camera.width,
                       camera.height,
                       {options.background[0], options.background[1], options.background[2]},
                       targets};
    kernels.composite_tile(task);
  });
  stats.composite_ms = watch.lap_ms();
  return !cancelled();
}

}  // namespace belvedere
