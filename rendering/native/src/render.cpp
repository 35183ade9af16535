#include "render.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "footprint.h"
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
  for (const Worker& worker : workspace.workers) {
    const std::size_t here = worker.bins.list(tile).count;
    count += here;
    pages += (here + kPageRecords - 1) / kPageRecords;
  }
  DepthItem* items = mine.items.resize_uncleared(count);
  mine.scratch.resize_uncleared(count);
  mine.records.resize_uncleared(count + kRecordPadding);
  const Page** page_table = mine.pages.resize_uncleared(pages);
  std::uint32_t page_number = 0;
  for (const Worker& worker : workspace.workers) {
    const TileBins::List list = worker.bins.list(tile);
    std::size_t left = list.count;
    for (const Page* page = list.first; left; page = page->next, ++page_number) {
      if (page->next) {
        for (std::size_t line = 0; line < sizeof(Page); line += 64) {
          __builtin_prefetch(reinterpret_cast<const char*>(page->next) + line, 0, 2);
        }
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
  for (const Worker& worker : workspace.workers) {
    for (std::size_t tile = 0; tile < tiles; ++tile) length[tile] += worker.bins.list(tile).count;
  }
  std::vector<std::uint32_t> order(tiles);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return length[a] > length[b]; });
  return order;
}

void sum_up(const Workspace& workspace, RenderStats& stats) {
  StageTimes& times = stats.times;
  int projecting = 0, compositing = 0;  // workers; a stage may have fewer tasks than threads
  for (const Worker& worker : workspace.workers) {
    stats.visible += worker.visible;
    stats.tile_pairs += worker.tile_pairs;
    projecting += worker.times.project_ms > 0;
    compositing += worker.times.composite_ms > 0;
    times.project_ms += worker.times.project_ms;
    times.bin_ms += worker.times.bin_ms;
    times.sort_ms += worker.times.sort_ms;
    times.composite_ms += worker.times.composite_ms;
  }
  times.project_ms /= std::max(projecting, 1), times.bin_ms /= std::max(projecting, 1);
  times.sort_ms /= std::max(compositing, 1), times.composite_ms /= std::max(compositing, 1);
}

// A frame in the making.
struct Frame {
  const Kernels& kernels;
  const DrawList& list;
  const CameraParams& camera;
  const SecondEye* second;  // null for one eye
  const RenderOptions& options;
  const CancelFlag& cancel;
  const ImageTargets (&targets)[2];
  Workspace& workspace;
  RenderStats& stats;

  bool cancelled() const { return cancel.load(std::memory_order_relaxed); }
};

// Whether nothing of a chunk can show in a window that is only a part of the image.
bool misses(const ChunkDraw& draw, const CameraParams& camera, TileWindow window) {
  PixelBox box;
  if (!footprint_of(draw.scene->bounds[draw.chunk], camera, box)) return false;
  return box.x1 < window.tx0 * kTileSize || box.x0 >= (window.tx0 + window.columns) * kTileSize ||
         box.y1 < window.ty0 * kTileSize || box.y0 >= (window.ty0 + window.rows) * kTileSize;
}

TileWindow whole_image(const CameraParams& camera) {
  return {0, 0, (camera.width + kTileSize - 1) / kTileSize,
          (camera.height + kTileSize - 1) / kTileSize};
}

// Projects all chunks and bins them into the window's tiles. Returns false if the records
// would not fit into the budget, or if the frame was cancelled.
bool project(const Frame& frame, TileWindow window, std::size_t budget_bytes) {
  Workspace& workspace = frame.workspace;
  const std::size_t empty = workspace.workers.size() * TileBins::bytes_for(window.tiles());
  if (empty > budget_bytes) return false;
  workspace.pages.reset(budget_bytes - empty);
  for (Worker& worker : workspace.workers) {
    worker.bins.reset(window, workspace.pages);
    worker.visible = 0;
  }
  const bool is_part = window.tiles() < whole_image(frame.camera).tiles();
  const ProjectTask task{&frame.camera, frame.options.sh_degree,
                         frame.options.kept_dilation_px2};
  ThreadPool::instance().parallel_for(
      frame.list.chunks.size(), frame.options.threads, [&](std::size_t i, int thread) {
        if (frame.cancelled() || workspace.pages.exhausted()) return;
        Worker& mine = workspace.workers[static_cast<std::size_t>(thread)];
        Stopwatch watch;
        const ChunkDraw& chunk = frame.list.chunks[i];
        const SecondEye* const second = frame.second;
        if (is_part && misses(chunk, frame.camera, window) &&
            (!second || misses(chunk, *second->camera, window))) {
          return;
        }
        Splat* const splats = mine.splats.resize_uncleared(kChunkGaussians * (second ? 2 : 1));
        const std::size_t survivors =
            second ? frame.kernels.project_chunk_pair(task, *second, chunk, splats)
                   : frame.kernels.project_chunk(task, chunk, splats);
        mine.visible += survivors;
        mine.times.project_ms += watch.lap_ms();
        second ? mine.bins.append<true>(splats, survivors)
               : mine.bins.append<false>(splats, survivors);
        mine.times.bin_ms += watch.lap_ms();
      });
  frame.stats.record_bytes = std::max(frame.stats.record_bytes, empty + workspace.pages.bytes());
  return !frame.cancelled() && !workspace.pages.exhausted();
}

// Orders and composites the window's tiles.
void composite(const Frame& frame, TileWindow window) {
  ++frame.stats.parts;
  const std::vector<std::uint32_t> tiles = tiles_by_length(frame.workspace, window.tiles());
  ThreadPool::instance().parallel_for(
      tiles.size(), frame.options.threads, [&](std::size_t i, int thread) {
        if (frame.cancelled()) return;
        Worker& mine = frame.workspace.workers[static_cast<std::size_t>(thread)];
        Stopwatch watch;
        const std::size_t count = collect(frame.workspace, tiles[i], mine);
        order(count, mine);
        mine.tile_pairs += count;
        mine.times.sort_ms += watch.lap_ms();
        const float* background = frame.options.background;
        const CompositeTask task{mine.records.data(),
                                 mine.items.data(),
                                 count,
                                 window.tx(tiles[i]) * kTileSize,
                                 window.ty(tiles[i]) * kTileSize,
                                 frame.camera.width,
                                 frame.camera.height,
                                 {background[0], background[1], background[2]},
                                 frame.options.transmittance_stop,
                                 {frame.targets[0], frame.targets[1]}};
        frame.second ? frame.kernels.composite_tile_pair(task)
                     : frame.kernels.composite_tile(task);
        mine.times.composite_ms += watch.lap_ms();
      });
}

// Draws a window, in halves where its records would not fit: a camera amid large Gaussians
// costs more time then, never more memory. A single tile is always drawn.
void draw(const Frame& frame, TileWindow window) {
  if (frame.cancelled()) return;
  constexpr std::size_t kUnlimited = ~std::size_t{0};
  const bool divisible = window.tiles() > 1;
  const std::size_t budget_bytes =
      divisible ? frame.options.record_budget_bytes : kUnlimited;
  if (project(frame, window, budget_bytes)) return composite(frame, window);
  if (frame.cancelled()) return;
  TileWindow first = window, second = window;
  if (window.rows >= window.columns) {
    first.rows = window.rows / 2;
    second.rows = window.rows - first.rows;
    second.ty0 += first.rows;
  } else {
    first.columns = window.columns / 2;
    second.columns = window.columns - first.columns;
    second.tx0 += first.columns;
  }
  draw(frame, first);
  draw(frame, second);
}

}  // namespace

void Workspace::trim() {
  pages.trim();
  for (Worker& worker : workers) {
    worker.bins.trim();
    worker.items.trim();
    worker.scratch.trim();
    worker.pages.trim();
    worker.records.trim();
  }
}

std::size_t Workspace::bytes() const {
  std::size_t sum = pages.bytes();
  for (const Worker& worker : workers) {
    sum += sizeof(Worker) + worker.bins.bytes() + worker.splats.bytes() + worker.items.bytes() +
           worker.scratch.bytes() + worker.pages.bytes() + worker.records.bytes();
  }
  return sum;
}

std::unique_ptr<Workspace> WorkspacePool::take() {
  std::lock_guard guard(mutex_);
  if (idle_.empty()) return std::make_unique<Workspace>();
  auto workspace = std::move(idle_.back());
  idle_.pop_back();
  return workspace;
}

void WorkspacePool::give_back(std::unique_ptr<Workspace> workspace) noexcept {
  std::lock_guard guard(mutex_);
  if (idle_.size() < kMostIdle) idle_.push_back(std::move(workspace));
  // All of them: one that nobody took since the last time needs nothing of what it has.
  for (const auto& idle : idle_) idle->trim();
}

WorkspacePool::Idle WorkspacePool::idle() const {
  std::lock_guard guard(mutex_);
  Idle idle{idle_.size(), 0};
  for (const auto& workspace : idle_) idle.bytes += workspace->bytes();
  return idle;
}

bool render(const Kernels& kernels, const DrawList& list, const CameraParams& camera,
            const SecondEye* second, const RenderOptions& options, const CancelFlag& cancel,
            const ImageTargets (&targets)[2], Workspace& workspace, RenderStats& stats) {
  workspace.workers.resize(static_cast<std::size_t>(options.threads));
  for (Worker& worker : workspace.workers) {
    worker.times = {};
    worker.tile_pairs = worker.visible = 0;
  }
  workspace.pages.reset(options.record_budget_bytes);  // frees what earlier frames had beyond it
  const Frame frame{kernels, list, camera, second, options, cancel, targets, workspace, stats};
  TileWindow window = whole_image(camera);
  window.ty0 = options.first_tile_row;
  window.rows = options.end_tile_row - options.first_tile_row;
  draw(frame, window);
  sum_up(workspace, stats);
  return !frame.cancelled();
}

}  // namespace belvedere
