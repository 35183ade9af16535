// Plain data that passes between the stages and between instruction sets.
//
// Nothing here may contain vector types or inline functions that do arithmetic:
// this header is compiled with different instruction sets in different files.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace belvedere {

constexpr int kPackLanes = 16;      // Gaussians in one block of the packed scene
constexpr int kChunkBlocks = 64;    // blocks that share one bounding box
constexpr int kChunkGaussians = kPackLanes * kChunkBlocks;
constexpr int kTileSize = 32;       // pixels; one task of the compositor
constexpr int kBlockSize = 4;       // pixels; the compositor keeps a block in registers
constexpr int kBlocksPerSide = kTileSize / kBlockSize;
static_assert(kBlocksPerSide == 8, "a block row of a tile is one byte of a coverage mask");

// Memory for large arrays that are written before they are read: aligned to a cache
// line and not cleared, so that pages a frame does not touch cost nothing.
template <typename T>
class Buffer {
 public:
  T* resize_uncleared(std::size_t count) {
    if (count > capacity_) {
      const std::size_t wanted = count + count / 4;
      data_.reset(static_cast<T*>(::operator new[](wanted * sizeof(T), std::align_val_t{64})));
      capacity_ = wanted;
    }
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t capacity_bytes() const { return capacity_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<T[], Free> data_;
  std::size_t capacity_ = 0;
};

// Sixteen Gaussians, one field after the other, so that any vector width loads them.
struct GeometryBlock {
  float mean[3][kPackLanes];
  float quat[4][kPackLanes];  // wxyz, unit length
  float scale[3][kPackLanes];
  float log2_opacity[kPackLanes];  // -inf for padding: never drawn
  float dc[3][kPackLanes];         // SH degree 0
};

struct ChunkBounds {
  float lo[3], hi[3];  // of the means
  float max_scale;
};

// A scene in the layout that projection streams through. SH beyond degree 0 are 16-bit
// integers with one float scale a block: half the bytes, errors below scale / 2.
struct PackedScene {
  std::size_t count = 0;
  std::size_t blocks = 0;
  int sh_degree = 0;
  Buffer<GeometryBlock> geometry;
  Buffer<std::int16_t> sh_rest;  // [blocks][(K - 1) * 3][kPackLanes]
  Buffer<float> sh_rest_scale;   // [blocks]
  std::vector<ChunkBounds> chunks;

  int sh_rest_rows() const { return ((sh_degree + 1) * (sh_degree + 1) - 1) * 3; }
  std::size_t bytes() const {
    return geometry.capacity_bytes() + sh_rest.capacity_bytes() + sh_rest_scale.capacity_bytes() +
           chunks.capacity() * sizeof(ChunkBounds);
  }
};

enum class CameraModel : int { kPinhole = 0, kOrtho = 1, kFisheye = 2 };

struct CameraParams {
  double rotation[9];     // world → camera, row-major
  double translation[3];  // camera = rotation · world + translation
  double position[3];     // optical centre in the world
  double fx, fy, cx, cy;
  double near, far;
  int width, height;
  CameraModel model;
};

// One projected Gaussian: a cache line. The exponent at an offset (dx, dy) from the
// centre, in log2 units with the opacity folded in, is
//   a dx² + b dx dy + c dy² + log2_opacity.
// The part before `tx0` is what a tile needs of it (kRecordBytes).
struct alignas(64) Splat {
  float x, y;  // pixels
  float a, b, c, log2_opacity;
  float r, g, bl;
  float depth;          // sort key and depth images
  std::uint32_t index;  // in the scene
  float extent_x, extent_y;  // half size of the box in which alpha reaches the cut, pixels
  float spread;              // sqrt(det Σ) / Σyy; see ellipse.h
  std::uint16_t tx0, tx1, ty0, ty1;  // tiles of that box, inclusive, clipped to the image
};
static_assert(sizeof(Splat) == 64);
constexpr std::size_t kSplatWords = sizeof(Splat) / 4;
constexpr std::size_t kRecordWords = offsetof(Splat, tx0) / 4;
constexpr std::size_t kRecordBytes = 4 * kRecordWords;

// A splat as a tile holds it: the first kRecordBytes of a Splat, without alignment. Reading
// sixteen words of one is allowed: pages end with slack.
struct Record {
  std::uint32_t words[kRecordWords];
};

struct ImageTargets {  // row-major; null where not wanted, alpha is always there
  float* color = nullptr;  // [H, W, 3]
  float* alpha = nullptr;
  float* depth = nullptr;
  float* median_depth = nullptr;
  std::int32_t* count = nullptr;
};

using CancelFlag = std::atomic<bool>;

struct ProjectTask {
  const PackedScene* scene;
  const CameraParams* camera;
  int sh_degree;
  bool antialiased;
};

// Readers of a tile's records may look this far past its end.
constexpr std::size_t kRecordPadding = 80;

struct CompositeTask {
  const Record* const* records;  // of the tile, front to back; then kRecordPadding more
  std::size_t count;
  int tile_x, tile_y;  // pixel coordinates of the tile's corner
  int width, height;
  float background[3];
  ImageTargets targets;
};

// One set of kernels for each instruction set (kernels.cpp, compiled once for each).
struct Kernels {
  const char* name;
  int lanes;
  bool (*supported)();
  // Projects one chunk into `splats`, room for kChunkGaussians; returns how many survived.
  std::uint32_t (*project_chunk)(const ProjectTask&, std::size_t chunk, Splat* splats);
  void (*composite_tile)(const CompositeTask&);
  // Blends `repeats` rounds of L1-resident splats that cover their block entirely;
  // returns the (pixel, Gaussian) pairs done. The measure of the machine's own limit.
  std::uint64_t (*composite_limit)(int repeats, float* sink);
};

}  // namespace belvedere
