// Plain data that passes between the stages and between instruction sets.
//
// This header is compiled with different instruction sets in different files, and a linker
// keeps one copy of an inline function, whichever it meets first. So there are no functions
// here, no vector types, and nothing of the standard library that has functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace belvedere {

constexpr int kPackLanes = 16;      // Gaussians in one block of the packed scene
constexpr int kChunkBlocks = 64;    // blocks that share one bounding box
constexpr int kChunkGaussians = kPackLanes * kChunkBlocks;
constexpr int kTileSize = 32;       // pixels; one task of the compositor
constexpr int kBlockSize = 4;       // pixels; the compositor keeps a block in registers
constexpr int kBlocksPerSide = kTileSize / kBlockSize;
static_assert(kBlocksPerSide == 8, "a block row of a tile is one byte of a coverage mask");

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

// A scene in the layout that projection streams through; scene.h owns one. SH beyond degree
// 0 are 16-bit integers with a float scale for each Gaussian: errors up to half of that scale.
struct SceneView {
  std::size_t blocks;
  std::size_t chunks;
  int sh_degree;
  int sh_rest_rows;            // three channels of all bases but the first
  const GeometryBlock* geometry;
  const std::int16_t* sh_rest;  // [blocks][sh_rest_rows][kPackLanes]
  const float* sh_rest_scale;   // [blocks][kPackLanes]
  const ChunkBounds* bounds;    // [chunks]
};

// A chunk of a scene as one frame draws it. A frame may draw chunks of many scenes.
struct ChunkDraw {
  const SceneView* scene;
  std::uint32_t chunk;
  std::uint32_t blocks;       // of the chunk: kChunkBlocks, but for a scene's last one
  std::uint32_t first_index;  // of its first Gaussian: equal depths are drawn by index
  float log2_weight;          // added to the opacities; 0 for a chunk that is all there
  float tint[3];              // a colour to see chunks by, and its share
  float tint_share;
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

// One projected Gaussian: a cache line. The exponent of its alpha at an offset (dx, dy) from
// its centre, in log2 units, is
//   log2_opacity − (wxx dx + wxy dy)² − (wyy dy)²,
// with W the whitening matrix: WᵀW is the inverse covariance times ½ log2 e. A sum of squares,
// unlike a dx² + b dx dy + c dy², does not cancel far out along a needle, and W stays in the
// range of a float where a, b and c would not. The part before `tx0` is what a tile needs of
// it (kRecordBytes).
struct alignas(64) Splat {
  float x, y;  // pixels
  float wxx, wxy, wyy;
  float log2_opacity;
  float r, g, bl;
  float other_x;        // in a frame for two eyes, where the second one sees it
  std::uint32_t index;  // in the frame's list of chunks
  float extent_x, extent_y;  // half size of the box in which alpha reaches the cut, pixels
  std::uint16_t tx0, tx1, ty0, ty1;  // tiles of that box, inclusive, clipped to the image
  float depth;  // sort key and depth images; a tile keeps it beside the record
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

// The x of a splat that an eye does not see: so far off that even the largest that is drawn
// (kLargestPixels) does not reach the image from there.
constexpr float kNowhere = 3e37f;

// A splat to put in order.
struct DepthItem {
  std::uint32_t key;  // bits of its depth, a positive float: they order like the float
  std::uint32_t position;
};

struct ImageTargets {  // row-major; null where not wanted, alpha is always there
  float* color = nullptr;  // [H, W, 3]
  float* alpha = nullptr;
  float* depth = nullptr;
  float* median_depth = nullptr;
  std::int32_t* count = nullptr;
};

struct ProjectTask {
  const CameraParams* camera;
  int sh_degree;  // the highest to evaluate
  // Of the dilation, what the picture keeps; opacities are compensated for the rest.
  float kept_dilation_px2;
};

// The other one of two eyes that look the same way; project_pair.h. It shares the splats of the
// first within these limits.
struct SecondEye {
  const CameraParams* camera;
  float drift_px;  // of outlines
  float sine;      // of the angle between the directions that colours are seen from
};

// Readers of a tile's records may look this far past its end.
constexpr std::size_t kRecordPadding = 80;

struct CompositeTask {
  const Record* const* records;  // of the tile, front to back; then kRecordPadding more
  const DepthItem* items;        // their depths, likewise
  std::size_t count;
  int tile_x, tile_y;  // pixel coordinates of the tile's corner
  int width, height;
  float background[3];
  float transmittance_stop;
  ImageTargets targets[2];  // of the eyes; without a second one the first alone counts
};

// Of fit_types.h.
struct FitKernels;

// One set of kernels for each instruction set (kernels.cpp, compiled once for each).
struct Kernels {
  const char* name;
  int lanes;
  bool (*supported)();
  // Projects one chunk into `splats`, room for kChunkGaussians; returns how many survived.
  std::uint32_t (*project_chunk)(const ProjectTask&, const ChunkDraw&, Splat* splats);
  // The same for two pinhole cameras: room for twice as many.
  std::uint32_t (*project_chunk_pair)(const ProjectTask&, const SecondEye&, const ChunkDraw&,
                                      Splat* splats);
  void (*composite_tile)(const CompositeTask&);
  void (*composite_tile_pair)(const CompositeTask&);
  // Blends `repeats` rounds of L1-resident splats that cover their block entirely;
  // returns the (pixel, Gaussian) pairs done. The measure of the machine's own limit.
  std::uint64_t (*composite_limit)(int repeats, float* sink);
  const FitKernels* fit;
};

}  // namespace belvedere
