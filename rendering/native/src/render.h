// One image from one camera: project and bin by chunk, then sort and composite by tile.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "buffer.h"
#include "draw_list.h"
#include "page_arena.h"
#include "sort.h"
#include "tile_bins.h"
#include "types.h"

namespace belvedere {

using CancelFlag = std::atomic<bool>;

struct RenderOptions {
  int sh_degree;
  float kept_dilation_px2;  // as in ProjectTask
  float background[3];
  float transmittance_stop;  // above kTransmittanceStop: pixels that reach it are opaque
  int threads;
  // For splats on their way to tiles (TileBins), of all threads together. Exceeded only where
  // the records of a single tile are more, or where it is less than a slab of PageArena.
  std::size_t record_budget_bytes;
  // Rows of tiles to draw, [first, end); the rest of the images is left as it is.
  int first_tile_row, end_tile_row;
};

// Times are the threads' own, summed and divided by the number of those that took part in the
// stage: they add up to the wall clock when none of them idles.
struct StageTimes {
  double project_ms = 0, bin_ms = 0, sort_ms = 0, composite_ms = 0;
};

struct RenderStats {
  std::size_t visible = 0;
  std::size_t tile_pairs = 0;
  std::size_t parts = 0;         // windows that the image was drawn in, more where the budget is tight
  std::size_t record_bytes = 0;  // most memory that the budget counts
  StageTimes times;
};

// What one thread needs for a frame, kept for the next so that a frame allocates nothing.
struct alignas(64) Worker {
  TileBins bins;
  Buffer<Splat> splats;  // of one chunk
  Buffer<DepthItem> items, scratch;
  Buffer<const Page*> pages;
  Buffer<const Record*> records;
  StageTimes times;
  std::size_t visible = 0, tile_pairs = 0;
};

struct Workspace {
  PageArena pages;
  std::vector<Worker> workers;  // one a thread

  void trim();  // between frames: keeps what frames like the last ones need
  std::size_t bytes() const;
};

// Hands out workspaces to concurrent renders, and keeps a few for the next ones.
class WorkspacePool {
 public:
  // An engine's renders come one after the other; two are enough for one beside an export.
  static constexpr std::size_t kMostIdle = 2;

  WorkspacePool() { idle_.reserve(kMostIdle); }
  std::unique_ptr<Workspace> take();
  void give_back(std::unique_ptr<Workspace> workspace) noexcept;

  struct Idle {
    std::size_t workspaces, bytes;
  };
  Idle idle() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

// Renders into `targets`; with a `second` eye (else null) for both, each into its own. Returns
// false if `cancel` was set before the image was complete.
bool render(const Kernels& kernels, const DrawList& list, const CameraParams& camera,
            const SecondEye* second, const RenderOptions& options, const CancelFlag& cancel,
            const ImageTargets (&targets)[2], Workspace& workspace, RenderStats& stats);

}  // namespace belvedere
