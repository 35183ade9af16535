#include "render.h"

#include <algorithm>
#include <chrono>
#include <cstring>
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

// All threads' records of one tile, in no particular order. An item's position counts through
// whole pages: page position / kPageRecords, record position % kPageRecords.
std::size_t collect(const Workspace& workspace, std::size_t tile, Worker& mine) {
  std::size_t count = 0, pages = 0;
  for (const Worker& worker : workspace) {
    const std::size_t here = worker.bins.list(tile).count;
    count += here;
    pages += (here + kPageRecords - 1) / kPageRecords;
  }
  DepthItem* items = mine.items.resize_uncleared(count);
  mine.scratch.resize_uncleared(count);
  mine.records.resize_uncleared(count + kRecordPadding);
  const Page** page_table = mine.pages.resize_uncleared(pages);
  std::uint32_t page_number = 0;
  for (const Worker& worker : workspace) {
    const TileBins::List list = worker.bins.list(tile);
    std::size_t left = list.count;
    for (const Page* page = list.first; left; page = page->next, ++page_number) {
      for (std::size_t line = 0; line < sizeof(Page); line += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(page->next) + line, 0, 2);
      }
      const std::uint32_t here = static_cast<std::uint32_t>(std::min(left, kPageRecords));
      for (std::uint32_t i = 0; i < here; ++i) {
        *items++ = {page->keys[i], page_number * static_cast<std::uint32_t>(kPageRecords) + i};
      }
      page_table[page_number] = page;
      left -= here;
    }
  }
  return count;
}

// Records front to back; equal depths by scene index, whichever thread projected them.
void order(std::size_t count, Worker& mine) {
  constexpr std::size_t kIndexWord = offsetof(Splat, index) / 4;
  sort_by_depth(mine.items.data(), mine.scratch.data(), count);
  const DepthItem* sorted = mine.items.data();
  const Page* const* pages = mine.pages.data();
  const Record** records = mine.records.data();
  const auto by_index = [](const Record* a, const Record* b) {
    return a->words[kIndexWord] < b->words[kIndexWord];
  };
  std::size_t run = 0;  // start of the current run of equal depths
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t at = sorted[i].position;
    records[i] = &pages[at / kPageRecords]->records[at % kPageRecords];
    if (i > 0 && sorted[i].key != sorted[i - 1].key) run = i;
    if (i > run && (i + 1 == count || sorted[i + 1].key != sorted[i].key)) {
      std::sort(records + run, records + i + 1, by_index);
    }
  }
  if (count > 0) std::fill_n(records + count, kRecordPadding, records[count - 1]);
}

// Longest tiles first, so that no thread is left alone with a long one at the end.
std::vector<std::uint32_t> tiles_by_length(const Workspace& workspace, std::size_t tiles) {
  std::vector<std::size_t> length(tiles, 0);
  for (const Worker& worker : workspace) {
    for (std::size_t tile = 0; tile < tiles; ++tile) length[tile] += worker.bins.list(tile).count;
  }
  std::vector<std::uint32_t> order(tiles);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return length[a] > length[b]; });
  return order;
}

void sum_up(const Workspace& workspace, RenderStats& stats) {
  for (const Worker& worker : workspace) {
    stats.visible += worker.visible;
    stats.tile_pairs += worker.tile_pairs;
    const double share = 1.0 / static_cast<double>(workspace.size());
    stats.times.project_ms += share * worker.times.project_ms;
    stats.times.bin_ms += share * worker.times.bin_ms;
    stats.times.sort_ms += share * worker.times.sort_ms;
    stats.times.composite_ms += share * worker.times.composite_ms;
  }
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

bool render(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
            const RenderOptions& options, const CancelFlag& cancel, const ImageTargets& targets,
            Workspace& workspace, RenderStats& stats) {
  const auto cancelled = [&] { return cancel.load(std::memory_order_relaxed); };
  const TileGrid grid{(camera.width + kTileSize - 1) / kTileSize,
                      (camera.height + kTileSize - 1) / kTileSize};
  workspace.resize(static_cast<std::size_t>(options.threads));
  for (Worker& worker : workspace) {
    worker.bins.reset(grid);
    worker.times = {};
    worker.visible = worker.tile_pairs = 0;
  }

  const ProjectTask project{&scene, &camera, std::min(options.sh_degree, scene.sh_degree),
                            options.antialiased};
  ThreadPool& pool = ThreadPool::instance();
  pool.parallel_for(scene.chunks.size(), options.threads, [&](std::size_t chunk, int thread) {
    if (cancelled()) return;
    Worker& mine = workspace[static_cast<std::size_t>(thread)];
    Stopwatch watch;
    Splat* const splats = mine.splats.resize_uncleared(kChunkGaussians);
    const std::size_t survivors = kernels.project_chunk(project, chunk, splats);
    mine.visible += survivors;
    mine.times.project_ms += watch.lap_ms();
    mine.bins.append(splats, survivors);
    mine.times.bin_ms += watch.lap_ms();
  });
  if (cancelled()) return false;

  const std::vector<std::uint32_t> tiles = tiles_by_length(workspace, grid.tiles());
  pool.parallel_for(tiles.size(), options.threads, [&](std::size_t i, int thread) {
    if (cancelled()) return;
    Worker& mine = workspace[static_cast<std::size_t>(thread)];
    Stopwatch watch;
    const int tile = static_cast<int>(tiles[i]);
    const std::size_t count = collect(workspace, tiles[i], mine);
    order(count, mine);
    mine.tile_pairs += count;
    mine.times.sort_ms += watch.lap_ms();
    kernels.composite_tile({mine.records.data(),
                            count,
                            tile % grid.columns * kTileSize,
                            tile / grid.columns * kTileSize,
                            camera.width,
                            camera.height,
                            {options.background[0], options.background[1], options.background[2]},
                            targets});
    mine.times.composite_ms += watch.lap_ms();
  });
  sum_up(workspace, stats);
  return !cancelled();
}

}  // namespace belvedere
