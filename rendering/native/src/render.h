// One image from one camera: project and bin by chunk, then sort and composite by tile.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "sort.h"
#include "tile_bins.h"
#include "types.h"

namespace belvedere {

struct RenderOptions {
  int sh_degree;
  bool antialiased;
  float background[3];
  int threads;
  std::size_t record_budget_bytes;  // for splats on their way to tiles (TileBins)
};

// Times are the threads' own, summed and divided by their number: they add up to the wall
// clock when no thread idles.
struct StageTimes {
  double project_ms = 0, bin_ms = 0, sort_ms = 0, composite_ms = 0;
};

struct RenderStats {
  std::size_t visible = 0;
  std::size_t tile_pairs = 0;
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

using Workspace = std::vector<Worker>;

// Hands out workspaces to concurrent renders.
class WorkspacePool {
 public:
  std::unique_ptr<Workspace> take();
  void give_back(std::unique_ptr<Workspace> workspace);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

// Renders into `targets`. Returns false if `cancel` was set before the image was complete.
bool render(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
            const RenderOptions& options, const CancelFlag& cancel, const ImageTargets& targets,
            Workspace& workspace, RenderStats& stats);

}  // namespace belvedere
