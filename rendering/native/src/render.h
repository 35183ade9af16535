// One image from one camera: project, sort, bin, composite.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "bin.h"
#include "types.h"

namespace belvedere {

struct RenderOptions {
  int sh_degree;
  bool antialiased;
  float background[3];
  int threads;
};

struct RenderStats {
  std::size_t visible = 0;
  std::size_t tile_pairs = 0;
  double project_ms = 0, sort_ms = 0, bin_ms = 0, composite_ms = 0;
};

// The arrays of one render, kept for the next so that a frame allocates nothing.
struct Workspace {
  Buffer<Splat> splats;
  Buffer<TileRect> rects;
  Buffer<std::uint32_t> depth_keys;
  Buffer<KeyedSlot> items, scratch;
  std::vector<std::uint32_t> survivors;  // by chunk
  TileLists lists;
};

// Hands out workspaces to concurrent renders.
class WorkspacePool {
 public:
  std::unique_ptr<Workspace> take();
  void give_back(std::unique_ptr<Workspace> workspace);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

// Projects all chunks. Survivors of chunk c lie from slot c · kChunkGaussians on. Returns
// their number, or nothing useful once `cancel` is set.
std::size_t project(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
                    const RenderOptions& options, const CancelFlag& cancel, Workspace& workspace);

// Renders into `targets`. Returns false if `cancel` was set before the image was complete.
bool render(const Kernels& kernels, const PackedScene& scene, const CameraParams& camera,
            const RenderOptions& options, const CancelFlag& cancel, const ImageTargets& targets,
            Workspace& workspace, RenderStats& stats);

}  // namespace belvedere
