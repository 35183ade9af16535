// Projection of one chunk for two eyes (splat/stereo.py): cameras side by side, which differ in
// where they are along their common x axis and in the principal point's cx.
//
// Depths, rows and vertical extents are the same for both. Their conics differ by the row of
// J W that holds x/z: M₀ = fx/z (r₀ − a r₂), so ‖M₀′ − M₀‖ = fx/z |a′ − a|, and no outline, k
// deviations out, moves by more than k times that times the largest deviation
// (render_cache/reuse.py, of which this is the case of one axis, Gaussian by Gaussian). Their
// colours differ by the directions they are seen from: the sine of the angle is at most the eyes'
// distance over the Gaussian's. Where both are within the limits, the second eye sees the first
// one's splat, if there is one, at its own x; elsewhere each eye gets a splat of its own.
#pragma once

#include "project.h"

namespace belvedere::BELVEDERE_ISA {

// Lanes whose outlines are as good as the same for both eyes.
BELVEDERE_INLINE Mask same_outline(const CameraLanes& cam, const CameraLanes& other,
                                   const GeometryBlock& g, int lane, float log2_weight,
                                   const V3& p, VF other_px, float drift_px) {
  const VF inv_z = 1.0f / p.z;
  // Before compensation, which differs between the eyes: what is faint to one need not be to both.
  const VF log2_opacity = load(&g.log2_opacity[lane]) + log2_weight;
  const VF k = sqrt((2.0f / kLog2E) * (log2_opacity - kLog2AlphaCut));
  const VF a = clamp(p.x * inv_z, -cam.limit_left, cam.limit_right);
  const VF b = clamp(other_px * inv_z, -other.limit_left, other.limit_right);
  const VF largest =
      max(max(load(&g.scale[0][lane]), load(&g.scale[1][lane])), load(&g.scale[2][lane]));
  return greater_equal(splat(drift_px), k * largest * abs(cam.fx * inv_z * (b - a)));
}

inline std::uint32_t project_chunk_pair(const ProjectTask& task, const SecondEye& second,
                                        const ChunkDraw& draw, Splat* splats) {
  const SceneView& scene = *draw.scene;
  const ChunkBounds& bounds = scene.bounds[draw.chunk];
  if (!chunk_may_be_seen(bounds, *task.camera) && !chunk_may_be_seen(bounds, *second.camera)) {
    return 0;
  }
  const CameraLanes cam = camera_lanes(*task.camera), other = camera_lanes(*second.camera);
  const int sh_degree = degree_of(task, scene);
  // Nearer than this, directions differ by more than the limit.
  const double apart = task.camera->translation[0] - second.camera->translation[0];
  const float nearest = sh_degree == 0 ? 0.0f : static_cast<float>(apart / second.sine);
  const VF nearest2 = splat(nearest * nearest);
  const std::size_t first = std::size_t{draw.chunk} * kChunkBlocks;
  std::uint32_t written = 0;
  for (std::size_t block = first; block < first + draw.blocks; ++block) {
    const GeometryBlock& g = scene.geometry[block];
    for (int lane = 0; lane < kPackLanes; lane += kLanes) {
      Lanes p;
      project_lanes<CameraModel::kPinhole>(*task.camera, cam, task.kept_dilation_px2, g, lane,
                                           draw.log2_weight, p);
      // Depths are the same, and what lies beyond near, far or the cut does so for both.
      if (!any(p.in_range)) continue;
      const std::uint32_t index =
          draw.first_index + static_cast<std::uint32_t>((block - first) * kPackLanes) + lane;
      const VF mean[3] = {load(&g.mean[0][lane]), load(&g.mean[1][lane]), load(&g.mean[2][lane])};
      const V3 d = {(mean[0] - other.origin_hi[0]) - other.origin_lo[0],
                    (mean[1] - other.origin_hi[1]) - other.origin_lo[1],
                    (mean[2] - other.origin_hi[2]) - other.origin_lo[2]};
      const VF px = dot(other.row[0], d);
      const VF u = fma(other.fx, px * (1.0f / p.p.z), other.cx);
      const Mask sees = both(p.alive, greater_equal(p.x1, p.x0));
      const Mask alike = both(
          same_outline(cam, other, g, lane, draw.log2_weight, p.p, px, second.drift_px),
          greater_equal(dot(p.d, p.d), nearest2));
      const Mask shared = both(both(p.alive, alike), greater(splat(kLargestPixels), abs(u)));
      VF x0, x1;
      columns_of(other, u, p.extent_x, x0, x1);
      const Mask other_sees = both(shared, greater_equal(x1, x0));
      const std::uint32_t shared_bits = bits(shared);
      const std::uint32_t differ_bits = bits(p.in_range) & ~bits(alike);
      const std::uint32_t by_first = bits(sees), by_second = bits(other_sees);
      VF rgb[3];
      if (by_first | by_second) shade_lanes(draw, block, lane, sh_degree, p.d, rgb);
      if (const std::uint32_t survivors = shared_bits & (by_first | by_second)) {
        const VF least = select(sees, select(other_sees, min(p.x0, x0), p.x0), x0);
        const VF most = select(sees, select(other_sees, max(p.x1, x1), p.x1), x1);
        written += write_splats(p, rgb, p.u, u, least, most, index, survivors, splats + written);
      }
      if (const std::uint32_t survivors = by_first & ~shared_bits) {
        written += write_splats(p, rgb, p.u, splat(kNowhere), p.x0, p.x1, index, survivors,
                                splats + written);
      }
      if (!differ_bits) continue;
      Lanes q;
      if (!project_lanes<CameraModel::kPinhole>(*second.camera, other, task.kept_dilation_px2, g,
                                                lane, draw.log2_weight, q)) {
        continue;
      }
      const std::uint32_t own = bits(both(q.alive, greater_equal(q.x1, q.x0))) & differ_bits;
      if (!own) continue;
      shade_lanes(draw, block, lane, sh_degree, q.d, rgb);
      written += write_splats(q, rgb, splat(kNowhere), q.u, q.x0, q.x1, index, own, splats + written);
    }
  }
  return written;
}

}  // namespace belvedere::BELVEDERE_ISA
