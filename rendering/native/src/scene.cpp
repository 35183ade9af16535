#include "scene.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "image_model.h"
#include "thread_pool.h"

namespace belvedere {
namespace {

// Sixteen rows of an array to lanes.
template <std::size_t kWidth>
void to_lanes(const float* from, std::size_t stride, float (&to)[kWidth][kPackLanes]) {
  for (std::size_t k = 0; k < kWidth; ++k) {
    for (std::size_t lane = 0; lane < kPackLanes; ++lane) to[k][lane] = from[lane * stride + k];
  }
}

void pack_full_block(const GaussianArrays& in, std::size_t first, GeometryBlock& out) {
  const auto bases = static_cast<std::size_t>((in.sh_degree + 1) * (in.sh_degree + 1));
  to_lanes(in.means + 3 * first, 3, out.mean);
  to_lanes(in.quats + 4 * first, 4, out.quat);
  to_lanes(in.scales + 3 * first, 3, out.scale);
  to_lanes(in.sh + 3 * bases * first, 3 * bases, out.dc);
  for (std::size_t lane = 0; lane < kPackLanes; ++lane) {
    const float opacity = in.opacities[first + lane];
    out.log2_opacity[lane] =
        opacity > 0 ? std::log2(opacity) : -std::numeric_limits<float>::infinity();
  }
}

void pack_last_block(const GaussianArrays& in, std::size_t first, GeometryBlock& out) {
  const auto bases = static_cast<std::size_t>((in.sh_degree + 1) * (in.sh_degree + 1));
  for (std::size_t lane = 0; lane < kPackLanes; ++lane) {
    const bool real = first + lane < in.count;
    const std::size_t from = real ? first + lane : in.count - 1;  // padding is never drawn
    for (int k = 0; k < 3; ++k) out.mean[k][lane] = in.means[from * 3 + k];
    for (int k = 0; k < 4; ++k) out.quat[k][lane] = in.quats[from * 4 + k];
    for (int k = 0; k < 3; ++k) out.scale[k][lane] = in.scales[from * 3 + k];
    for (int k = 0; k < 3; ++k) out.dc[k][lane] = in.sh[from * bases * 3 + k];
    const float opacity = in.opacities[from];
    out.log2_opacity[lane] = real && opacity > 0 ? std::log2(opacity)
                                                 : -std::numeric_limits<float>::infinity();
  }
}

void pack_geometry(const GaussianArrays& in, std::size_t block, GeometryBlock& out) {
  const std::size_t first = block * kPackLanes;
  if (first + kPackLanes <= in.count) {
    pack_full_block(in, first, out);
  } else {
    pack_last_block(in, first, out);
  }
}

// A scale for each Gaussian, so that none answers for its neighbours' coefficients.
void pack_sh_rest(const GaussianArrays& in, std::size_t block, int rows, std::int16_t* out,
                  float* scales) {
  constexpr float kMost = 32767.0f;
  const std::size_t first = block * kPackLanes;
  std::fill_n(out, static_cast<std::size_t>(rows) * kPackLanes, std::int16_t{0});
  std::fill_n(scales, kPackLanes, 0.0f);
  for (std::size_t i = first; i < std::min(in.count, first + kPackLanes); ++i) {
    const std::size_t lane = i - first;
    const float* rest = in.sh + i * (static_cast<std::size_t>(rows) + 3) + 3;
    float largest = 0;
    for (int row = 0; row < rows; ++row) largest = std::max(largest, std::fabs(rest[row]));
    if (!(largest > std::numeric_limits<float>::min() * kMost)) continue;  // as good as black
    const float inverse = kMost / largest;
    for (int row = 0; row < rows; ++row) {
      out[row * kPackLanes + lane] = static_cast<std::int16_t>(std::lrint(rest[row] * inverse));
    }
    scales[lane] = largest / kMost;
  }
}

// Merged Gaussians may have opacities above 1 and reach further than kMaxSigmas: by how much.
float reach_factor(float opacity) {
  if (!(opacity > 1)) return 1;
  return std::sqrt(1 - std::log2(opacity) / kLog2AlphaCut);
}

ChunkBounds bounds_of(const GaussianArrays& in, std::size_t chunk) {
  ChunkBounds b;
  for (int k = 0; k < 3; ++k) {
    b.lo[k] = std::numeric_limits<float>::infinity();
    b.hi[k] = -std::numeric_limits<float>::infinity();
  }
  b.max_scale = 0;
  const std::size_t first = chunk * kChunkGaussians;
  const std::size_t last = std::min(in.count, first + kChunkGaussians);
  for (std::size_t i = first; i < last; ++i) {
    const float reach = reach_factor(in.opacities[i]);
    for (int k = 0; k < 3; ++k) {
      b.lo[k] = std::min(b.lo[k], in.means[i * 3 + k]);
      b.hi[k] = std::max(b.hi[k], in.means[i * 3 + k]);
      b.max_scale = std::max(b.max_scale, reach * in.scales[i * 3 + k]);
    }
  }
  return b;
}

}  // namespace

SceneSize::SceneSize(std::size_t gaussians, int sh_degree)
    : blocks((gaussians + kPackLanes - 1) / kPackLanes),
      chunks((blocks + kChunkBlocks - 1) / kChunkBlocks),
      sh_rest_rows(static_cast<std::size_t>((sh_degree + 1) * (sh_degree + 1) - 1) * 3) {}

std::size_t PackedScene::bytes() const {
  return geometry.bytes() + sh_rest.bytes() + sh_rest_scale.bytes() + bounds.bytes();
}

SceneView pack_into(const GaussianArrays& in, int threads, const SceneMemory& memory) {
  const SceneSize size(in.count, in.sh_degree);
  const int rows = static_cast<int>(size.sh_rest_rows);
  ThreadPool::instance().parallel_for(size.chunks, threads, [&](std::size_t chunk, int) {
    memory.bounds[chunk] = bounds_of(in, chunk);
    const std::size_t end = std::min(size.blocks, (chunk + 1) * kChunkBlocks);
    for (std::size_t block = chunk * kChunkBlocks; block < end; ++block) {
      pack_geometry(in, block, memory.geometry[block]);
      if (rows) {
        pack_sh_rest(in, block, rows, memory.sh_rest + block * rows * kPackLanes,
                     memory.sh_rest_scale + block * kPackLanes);
      }
    }
  });
  return {size.blocks,    size.chunks,          in.sh_degree, rows, memory.geometry,
          memory.sh_rest, memory.sh_rest_scale, memory.bounds};
}

void pack_scene(const GaussianArrays& in, int threads, PackedScene& out) {
  const SceneSize size(in.count, in.sh_degree);
  out.count = in.count;
  out.view = pack_into(in, threads,
                       {out.geometry.resize_uncleared(size.blocks),
                        out.sh_rest.resize_uncleared(size.sh_rest()),
                        out.sh_rest_scale.resize_uncleared(size.sh_rest_scales()),
                        out.bounds.resize_uncleared(size.chunks)});
}

}  // namespace belvedere
