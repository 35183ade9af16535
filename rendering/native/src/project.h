// Projection of one chunk of the packed scene (image model, steps 1 and 2).
//
// EWA (Zwicker et al. 2001) with two twists for float32: the determinant of the screen
// covariance is taken from the 2×2 minors of Q = J W R S (Cauchy–Binet) instead of
// sxx syy − sxy², which cancels for long thin Gaussians; and where the fourth power of a
// length would overflow, lengths are measured in a larger unit than a pixel.
#pragma once

#include "image_model.h"
#include "simd.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

struct V3 {
  VF x, y, z;
};

BELVEDERE_INLINE VF dot(const V3& a, const V3& b) { return fma(a.x, b.x, fma(a.y, b.y, a.z * b.z)); }
BELVEDERE_INLINE V3 scaled(const V3& a, VF s) { return {a.x * s, a.y * s, a.z * s}; }

// The camera in single precision, constants of a chunk's loop.
struct CameraLanes {
  V3 row[3];              // of the rotation
  VF origin_hi[3], origin_lo[3];  // optical centre, split so that nothing is lost
  VF fx, fy, cx, cy;
  VF limit_right, limit_left, limit_bottom, limit_top;  // on x/z and y/z inside J
  VF near, far, width, height;
};

BELVEDERE_INLINE CameraLanes camera_lanes(const CameraParams& c) {
  CameraLanes l;
  for (int i = 0; i < 3; ++i) {
    l.row[i] = {splat(static_cast<float>(c.rotation[3 * i])),
                splat(static_cast<float>(c.rotation[3 * i + 1])),
                splat(static_cast<float>(c.rotation[3 * i + 2]))};
    const float hi = static_cast<float>(c.position[i]);
    l.origin_hi[i] = splat(hi);
    l.origin_lo[i] = splat(static_cast<float>(c.position[i] - hi));
  }
  l.fx = splat(static_cast<float>(c.fx)), l.fy = splat(static_cast<float>(c.fy));
  l.cx = splat(static_cast<float>(c.cx)), l.cy = splat(static_cast<float>(c.cy));
  // As gsplat does: J is linearized no further out than 0.3 tan(fov / 2) beyond the image.
  const double tan_x = 0.5 * c.width / c.fx, tan_y = 0.5 * c.height / c.fy;
  l.limit_right = splat(static_cast<float>((c.width - c.cx) / c.fx + 0.3 * tan_x));
  l.limit_left = splat(static_cast<float>(c.cx / c.fx + 0.3 * tan_x));
  l.limit_bottom = splat(static_cast<float>((c.height - c.cy) / c.fy + 0.3 * tan_y));
  l.limit_top = splat(static_cast<float>(c.cy / c.fy + 0.3 * tan_y));
  l.near = splat(static_cast<float>(c.near)), l.far = splat(static_cast<float>(c.far));
  l.width = splat(static_cast<float>(c.width)), l.height = splat(static_cast<float>(c.height));
  return l;
}

// View depth z in double, rounded once: the sort key must not depend on who computes it.
BELVEDERE_INLINE VF precise_depth(const CameraParams& c, const VF mean[3]) {
  const VD x = __builtin_convertvector(mean[0], VD);
  const VD y = __builtin_convertvector(mean[1], VD);
  const VD z = __builtin_convertvector(mean[2], VD);
  const VD depth = x * c.rotation[6] + y * c.rotation[7] + z * c.rotation[8] + c.translation[2];
  return __builtin_convertvector(depth, VF);
}

// Distance to the optical centre, the depth of a fisheye camera, likewise.
BELVEDERE_INLINE VF precise_distance(const CameraParams& c, const VF mean[3]) {
  VD square = {};
  for (int k = 0; k < 3; ++k) {
    const VD d = __builtin_convertvector(mean[k], VD) - c.position[k];
    square += d * d;
  }
  VF distance;
  for (int i = 0; i < kLanes; ++i) distance[i] = static_cast<float>(__builtin_sqrt(square[i]));
  return distance;
}

struct Screen {
  VF u, v;    // pixel
  V3 m0, m1;  // rows of J W
  Mask inside;
};

BELVEDERE_INLINE Screen to_screen_pinhole(const CameraLanes& cam, const V3& p) {
  Screen s;
  const VF inv_z = 1.0f / p.z;
  const VF tx = p.x * inv_z, ty = p.y * inv_z;
  s.u = fma(cam.fx, tx, cam.cx);
  s.v = fma(cam.fy, ty, cam.cy);
  const VF jx = clamp(tx, -cam.limit_left, cam.limit_right);
  const VF jy = clamp(ty, -cam.limit_top, cam.limit_bottom);
  const V3& w2 = cam.row[2];
  const VF gx = cam.fx * inv_z, gy = cam.fy * inv_z;
  s.m0 = scaled({fma(-jx, w2.x, cam.row[0].x), fma(-jx, w2.y, cam.row[0].y),
                 fma(-jx, w2.z, cam.row[0].z)}, gx);
  s.m1 = scaled({fma(-jy, w2.x, cam.row[1].x), fma(-jy, w2.y, cam.row[1].y),
                 fma(-jy, w2.z, cam.row[1].z)}, gy);
  s.inside = greater(splat(1.0f), splat(0.0f));
  return s;
}

BELVEDERE_INLINE Screen to_screen_ortho(const CameraLanes& cam, const V3& p) {
  Screen s;
  s.u = fma(cam.fx, p.x, cam.cx);
  s.v = fma(cam.fy, p.y, cam.cy);
  s.m0 = scaled(cam.row[0], cam.fx);
  s.m1 = scaled(cam.row[1], cam.fy);
  s.inside = greater(splat(1.0f), splat(0.0f));
  return s;
}

// Equidistant fisheye; J as in Fisheye-GS (Liao et al. 2024), eq. 9 ff.
BELVEDERE_INLINE Screen to_screen_fisheye(const CameraLanes& cam, const V3& p) {
  Screen s;
  const VF xx = p.x * p.x, yy = p.y * p.y;
  const VF r2 = xx + yy, r = sqrt(r2), rho2 = fma(p.z, p.z, r2);
  VF theta;
  for (int i = 0; i < kLanes; ++i) theta[i] = __builtin_atan2f(r[i], p.z[i]);
  // The image stretches by θ/r across the radius (c, d) and by z/ρ² along it. On the axis
  // both are 1/z, and any direction will do.
  const Mask off_axis = greater(r, 1e-4f * sqrt(rho2));
  const VF safe_r = select(off_axis, r, splat(1.0f));
  const VF across = select(off_axis, theta / safe_r, 1.0f / p.z), along = p.z / rho2;
  s.u = fma(cam.fx * p.x, across, cam.cx);
  s.v = fma(cam.fy * p.y, across, cam.cy);
  const VF c = select(off_axis, p.x / safe_r, splat(1.0f));
  const VF d = select(off_axis, p.y / safe_r, splat(0.0f));
  const VF shear = c * d * (along - across), minus_inv = -1.0f / rho2;
  const V3 j0 = {cam.fx * fma(c * c, along, d * d * across), cam.fx * shear,
                 cam.fx * p.x * minus_inv};
  const V3 j1 = {cam.fy * shear, cam.fy * fma(d * d, along, c * c * across),
                 cam.fy * p.y * minus_inv};
  const auto times_w = [&](const V3& j) {
    return V3{dot(j, {cam.row[0].x, cam.row[1].x, cam.row[2].x}),
              dot(j, {cam.row[0].y, cam.row[1].y, cam.row[2].y}),
              dot(j, {cam.row[0].z, cam.row[1].z, cam.row[2].z})};
  };
  s.m0 = times_w(j0);
  s.m1 = times_w(j1);
  s.inside = greater(splat(kFisheyeMaxTheta), theta);
  return s;
}

// J W R S as two rows of three.
BELVEDERE_INLINE void scaled_axes(const GeometryBlock& g, int lane, const Screen& s, V3& q0, V3& q1) {
  const VF w = load(&g.quat[0][lane]), x = load(&g.quat[1][lane]);
  const VF y = load(&g.quat[2][lane]), z = load(&g.quat[3][lane]);
  const VF x2 = x + x, y2 = y + y, z2 = z + z;
  const VF xx = x * x2, yy = y * y2, zz = z * z2;
  const VF xy = x * y2, xz = x * z2, yz = y * z2, wx = w * x2, wy = w * y2, wz = w * z2;
  const V3 c0 = {1.0f - (yy + zz), xy + wz, xz - wy};
  const V3 c1 = {xy - wz, 1.0f - (xx + zz), yz + wx};
  const V3 c2 = {xz + wy, yz - wx, 1.0f - (xx + yy)};
  const VF s0 = load(&g.scale[0][lane]), s1 = load(&g.scale[1][lane]), s2 = load(&g.scale[2][lane]);
  q0 = {dot(s.m0, c0) * s0, dot(s.m0, c1) * s1, dot(s.m0, c2) * s2};
  q1 = {dot(s.m1, c0) * s0, dot(s.m1, c1) * s1, dot(s.m1, c2) * s2};
}

// The dilated covariance Q Qᵀ + dilation · I, and its determinant.
struct Footprint {
  VF xx, xy, yy, det;
};

BELVEDERE_INLINE Footprint footprint(const V3& q0, const V3& q1, VF dilation) {
  const VF raw_xx = dot(q0, q0), raw_yy = dot(q1, q1);
  const V3 minors = {fma(q0.y, q1.z, -(q0.z * q1.y)), fma(q0.z, q1.x, -(q0.x * q1.z)),
                     fma(q0.x, q1.y, -(q0.y * q1.x))};
  Footprint f;
  f.xx = raw_xx + dilation, f.xy = dot(q0, q1), f.yy = raw_yy + dilation;
  f.det = fma(dilation, (raw_xx + raw_yy) + dilation, dot(minors, minors));
  return f;
}

// A power of two for each lane, by which the entries of Q are multiplied so that none is
// above 2; 1 where none is above kHuge.
BELVEDERE_INLINE VF unit_for(const V3& q0, const V3& q1) {
  constexpr float kHuge = 1048576.0f;  // pixels; its fourth power is far from overflowing
  const VF largest = max(max(max(abs(q0.x), abs(q0.y)), max(abs(q0.z), abs(q1.x))),
                         max(abs(q1.y), abs(q1.z)));
  // 2^(e − 127) has the exponent bits e, and its inverse 254 − e.
  const VF inverse = (VF)(0x7f000000 - ((VI)largest & 0x7f800000));
  return select(greater(largest, splat(kHuge)), inverse, splat(1.0f));
}

// Colour of kLanes Gaussians seen along unit directions (splat/harmonics.py).
BELVEDERE_INLINE void shade(const SceneView& scene, std::size_t block, int lane, int degree,
                            const V3& dir, VF rgb[3]) {
  const GeometryBlock& g = scene.geometry[block];
  for (int k = 0; k < 3; ++k) {
    rgb[k] = fma(load(&g.dc[k][lane]), splat(0.28209479177387814f), splat(0.5f));
  }
  if (degree > 0) {
    const VF x = dir.x, y = dir.y, z = dir.z;
    VF basis[15];
    basis[0] = -0.4886025119029199f * y;
    basis[1] = 0.4886025119029199f * z;
    basis[2] = -0.4886025119029199f * x;
    if (degree > 1) {
      const VF xx = x * x, yy = y * y, zz = z * z;
      basis[3] = 1.0925484305920792f * (x * y);
      basis[4] = -1.0925484305920792f * (y * z);
      basis[5] = 0.31539156525252005f * (2.0f * zz - xx - yy);
      basis[6] = -1.0925484305920792f * (x * z);
      basis[7] = 0.5462742152960396f * (xx - yy);
      if (degree > 2) {
        basis[8] = -0.5900435899266435f * y * (3.0f * xx - yy);
        basis[9] = 2.890611442640554f * (x * y) * z;
        basis[10] = -0.4570457994644658f * y * (4.0f * zz - xx - yy);
        basis[11] = 0.3731763325901154f * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
        basis[12] = -0.4570457994644658f * x * (4.0f * zz - xx - yy);
        basis[13] = 1.445305721320277f * z * (xx - yy);
        basis[14] = -0.5900435899266435f * x * (xx - 3.0f * yy);
      }
    }
    const int bases = (degree + 1) * (degree + 1) - 1;
    const std::int16_t* rest = scene.sh_rest + block * scene.sh_rest_rows * kPackLanes + lane;
    VF sum[3] = {};
    for (int k = 0; k < bases; ++k) {
      for (int channel = 0; channel < 3; ++channel) {
        VH packed;
        std::memcpy(&packed, rest + (k * 3 + channel) * kPackLanes, sizeof packed);
        sum[channel] = fma(basis[k], __builtin_convertvector(packed, VF), sum[channel]);
      }
    }
    const VF scale = load(scene.sh_rest_scale + block * kPackLanes + lane);
    for (int k = 0; k < 3; ++k) rgb[k] = fma(sum[k], scale, rgb[k]);
  }
  for (int k = 0; k < 3; ++k) rgb[k] = max(rgb[k], splat(0.0f));
}

// Whether a chunk may contribute to the image. Conservative: it allows for the largest
// Gaussian at the nearest corner and for J's linearization limit. For a fisheye camera, whose
// depths are distances, only near and far are tested.
inline bool chunk_may_be_seen(const ChunkBounds& b, const CameraParams& c) {
  double centre[3], half[3];
  for (int k = 0; k < 3; ++k) {
    centre[k] = 0.5 * (static_cast<double>(b.lo[k]) + b.hi[k]) - c.position[k];
    half[k] = 0.5 * (static_cast<double>(b.hi[k]) - b.lo[k]);
  }
  const double* r = c.rotation;
  // Smallest value over the box of (row · p) for a row in the camera frame.
  const auto least = [&](double x, double y, double z) {
    double sum = 0;
    for (int k = 0; k < 3; ++k) {
      const double d = x * r[k] + y * r[3 + k] + z * r[6 + k];
      sum += d * centre[k] - __builtin_fabs(d) * half[k];
    }
    return sum;
  };
  const double slack = 1e-5 * (__builtin_fabs(c.position[0]) + __builtin_fabs(c.position[1]) +
                               __builtin_fabs(c.position[2]) + half[0] + half[1] + half[2]);
  if (c.model == CameraModel::kFisheye) {
    double nearest = 0, furthest = 0;  // squares
    for (int k = 0; k < 3; ++k) {
      const double offset = __builtin_fabs(centre[k]);
      const double gap = offset > half[k] ? offset - half[k] : 0;
      nearest += gap * gap;
      furthest += (offset + half[k]) * (offset + half[k]);
    }
    return !(__builtin_sqrt(nearest) > c.far + slack || __builtin_sqrt(furthest) < c.near - slack);
  }
  if (least(0, 0, 1) > c.far + slack) return false;
  if (-least(0, 0, -1) < c.near - slack) return false;
  const double dilation_px = kMaxSigmas * __builtin_sqrt(kDilationPx2) + 1.0;
  const double reach = kMaxSigmas * b.max_scale;
  const double right = (c.width - c.cx + dilation_px) / c.fx, left = (c.cx + dilation_px) / c.fx;
  const double bottom = (c.height - c.cy + dilation_px) / c.fy, top = (c.cy + dilation_px) / c.fy;
  if (c.model == CameraModel::kOrtho) {
    return least(1, 0, 0) <= right + reach + slack && least(-1, 0, 0) <= left + reach + slack &&
           least(0, 1, 0) <= bottom + reach + slack && least(0, -1, 0) <= top + reach + slack;
  }
  // Row x of J W has norm fx / z · sqrt(1 + (x/z)²), with x/z limited as in camera_lanes.
  const auto stretch = [](double a, double b, double tangent) {
    const double limit = (a > b ? a : b) + 0.3 * tangent;
    return __builtin_sqrt(1 + limit * limit);
  };
  const double reach_x = reach * stretch(right, left, 0.5 * c.width / c.fx) + slack;
  const double reach_y = reach * stretch(bottom, top, 0.5 * c.height / c.fy) + slack;
  return least(1, 0, -right) <= reach_x && least(-1, 0, -left) <= reach_x &&
         least(0, 1, -bottom) <= reach_y && least(0, -1, -top) <= reach_y;
}

// Writes kLanes splats, given word by word, to consecutive places: those of `survivors`.
BELVEDERE_INLINE std::uint32_t compact(const VF (&words)[kSplatWords], std::uint32_t survivors,
                                       Splat* out) {
  VF rows[kSplatWords / kLanes][kLanes];
  for (std::size_t part = 0; part < kSplatWords / kLanes; ++part) {
    VF columns[kLanes];
    for (int f = 0; f < kLanes; ++f) columns[f] = words[part * kLanes + f];
    transpose(columns, rows[part]);
  }
  std::uint32_t written = 0;
  for (; survivors; survivors &= survivors - 1, ++written) {
    const int lane = __builtin_ctz(survivors);
    for (std::size_t part = 0; part < kSplatWords / kLanes; ++part) {
      store(reinterpret_cast<float*>(out + written) + part * kLanes, rows[part][lane]);
    }
  }
  return written;
}

constexpr float kLargestDet = 1e36f, kSmallestDet = 1e-36f;  // what float32 can work with
constexpr float kLargestPixels = 1e37f;  // of positions and extents, so that they may be added

// kLanes Gaussians on the screen, all but their colours.
struct Lanes {
  V3 d, p;  // mean from the optical centre, along the world's axes and the camera's
  VF u, v, depth, log2_opacity;
  Footprint f;  // in units of (1 / unit pixels)²
  VF unit;
  VF extent_x, extent_y;
  VF x0, x1, y0, y1;  // pixel centres inside the box, clipped to the image
  Mask in_range;  // of depths, with enough opacity before it is compensated
  Mask alive;     // drawn, if there is a pixel centre between x0 and x1
};

// Pixel columns of a box about `u`.
BELVEDERE_INLINE void columns_of(const CameraLanes& cam, VF u, VF extent_x, VF& x0, VF& x1) {
  x0 = max(-floor(-(u - extent_x - 0.5f)), splat(0.0f));
  x1 = min(floor(u + extent_x - 0.5f), cam.width - 1.0f);
}

// Returns whether any lane is alive; if none is in range, `out` is not complete.
template <CameraModel model>
BELVEDERE_INLINE bool project_lanes(const CameraParams& camera, const CameraLanes& cam,
                                    float kept_dilation_px2, const GeometryBlock& g, int lane,
                                    float log2_weight, Lanes& out) {
  const VF mean[3] = {load(&g.mean[0][lane]), load(&g.mean[1][lane]), load(&g.mean[2][lane])};
  out.d = {(mean[0] - cam.origin_hi[0]) - cam.origin_lo[0],
           (mean[1] - cam.origin_hi[1]) - cam.origin_lo[1],
           (mean[2] - cam.origin_hi[2]) - cam.origin_lo[2]};
  const VF z = precise_depth(camera, mean);
  out.p = {dot(cam.row[0], out.d), dot(cam.row[1], out.d), z};
  Screen s;
  out.depth = z;
  if constexpr (model == CameraModel::kPinhole) s = to_screen_pinhole(cam, out.p);
  if constexpr (model == CameraModel::kOrtho) s = to_screen_ortho(cam, out.p);
  if constexpr (model == CameraModel::kFisheye) {
    s = to_screen_fisheye(cam, out.p);
    out.depth = precise_distance(camera, mean);
  }
  VF log2_opacity = load(&g.log2_opacity[lane]) + log2_weight;
  Mask alive = both(s.inside, greater_equal(log2_opacity, splat(kLog2AlphaCut)));
  alive = both(alive, both(greater_equal(out.depth, cam.near), greater_equal(cam.far, out.depth)));
  out.in_range = alive;
  if (!any(alive)) return false;

  V3 q0, q1;
  scaled_axes(g, lane, s, q0, q1);
  VF unit = splat(1.0f);  // of lengths: 1 / unit pixels
  Footprint f = footprint(q0, q1, splat(kDilationPx2));
  if (any(both(alive, greater(f.det, splat(kLargestDet))))) {  // hardly ever
    unit = unit_for(q0, q1);
    f = footprint(scaled(q0, unit), scaled(q1, unit), kDilationPx2 * unit * unit);
  }
  if (kept_dilation_px2 < kDilationPx2) {
    const VF kept =
        footprint(scaled(q0, unit), scaled(q1, unit), kept_dilation_px2 * unit * unit).det;
    const VF ratio = max(kept / f.det, splat(1e-20f));
    log2_opacity = fma(splat(0.5f), log2(ratio), log2_opacity);
    alive = both(alive, greater_equal(log2_opacity, splat(kLog2AlphaCut)));
  }
  const VF k = (2.0f / kLog2E) * (log2_opacity - kLog2AlphaCut);
  const VF pixels = 1.0f / unit;
  const VF extent_x = sqrt(k * f.xx) * pixels, extent_y = sqrt(k * f.yy) * pixels;
  columns_of(cam, s.u, extent_x, out.x0, out.x1);
  out.y0 = max(-floor(-(s.v - extent_y - 0.5f)), splat(0.0f));
  out.y1 = min(floor(s.v + extent_y - 0.5f), cam.height - 1.0f);
  alive = both(alive, greater_equal(out.y1, out.y0));
  // Comparisons are false for NaN, so whatever overflowed is dropped here.
  const VF limit = splat(kLargestPixels);
  alive = both(alive, both(greater(limit, abs(s.u)), greater(limit, abs(s.v))));
  alive = both(alive, both(greater(limit, extent_x), greater(limit, extent_y)));
  alive = both(alive, greater(f.det, splat(kSmallestDet)));
  out.u = s.u, out.v = s.v, out.log2_opacity = log2_opacity, out.f = f, out.unit = unit;
  out.extent_x = extent_x, out.extent_y = extent_y, out.alive = alive;
  return any(alive);
}

// Colours of kLanes Gaussians as this draw shows them.
BELVEDERE_INLINE void shade_lanes(const ChunkDraw& draw, std::size_t block, int lane,
                                  int sh_degree, const V3& d, VF rgb[3]) {
  const VF inv_length = 1.0f / sqrt(max(dot(d, d), splat(1e-30f)));
  shade(*draw.scene, block, lane, sh_degree, scaled(d, inv_length), rgb);
  if (draw.tint_share > 0) {
    for (int k = 0; k < 3; ++k) {
      rgb[k] = fma(splat(draw.tint_share), draw.tint[k] - rgb[k], rgb[k]);
    }
  }
}

// Writes the splats of `survivors` at `x`, and for a second eye at `other_x`; their columns of
// pixels are [x0, x1]. Returns how many.
BELVEDERE_INLINE std::uint32_t write_splats(const Lanes& p, const VF rgb[3], VF x, VF other_x,
                                            VF x0, VF x1, std::uint32_t index,
                                            std::uint32_t survivors, Splat* out) {
  const VF inv_yy = 1.0f / p.f.yy;
  const VF wxx = sqrt(splat(0.5f * kLog2E) * p.f.yy / p.f.det) * p.unit;
  const VF wxy = -wxx * (p.f.xy * inv_yy);
  const VF wyy = sqrt(splat(0.5f * kLog2E) * inv_yy) * p.unit;
  const VI indices = splat_int(static_cast<std::int32_t>(index)) + lane_numbers();
  const VI tx0 = truncate(x0) / kTileSize, tx1 = truncate(x1) / kTileSize;
  const VI ty0 = truncate(p.y0) / kTileSize, ty1 = truncate(p.y1) / kTileSize;
  const VF words[kSplatWords] = {x,
                                 p.v,
                                 wxx,
                                 wxy,
                                 wyy,
                                 p.log2_opacity,
                                 rgb[0],
                                 rgb[1],
                                 rgb[2],
                                 other_x,
                                 (VF)indices,
                                 p.extent_x,
                                 p.extent_y,
                                 (VF)(tx0 | tx1 << 16),
                                 (VF)(ty0 | ty1 << 16),
                                 p.depth};
  return compact(words, survivors, out);
}

inline int degree_of(const ProjectTask& task, const SceneView& scene) {
  return task.sh_degree < scene.sh_degree ? task.sh_degree : scene.sh_degree;
}

template <CameraModel model>
std::uint32_t project_chunk(const ProjectTask& task, const ChunkDraw& draw, Splat* splats) {
  const SceneView& scene = *draw.scene;
  if (!chunk_may_be_seen(scene.bounds[draw.chunk], *task.camera)) return 0;
  const CameraLanes cam = camera_lanes(*task.camera);
  const int sh_degree = degree_of(task, scene);
  const std::size_t first = std::size_t{draw.chunk} * kChunkBlocks;
  std::uint32_t written = 0;
  for (std::size_t block = first; block < first + draw.blocks; ++block) {
    for (int lane = 0; lane < kPackLanes; lane += kLanes) {
      Lanes p;
      if (!project_lanes<model>(*task.camera, cam, task.kept_dilation_px2, scene.geometry[block],
                                lane, draw.log2_weight, p)) {
        continue;
      }
      const std::uint32_t survivors = bits(both(p.alive, greater_equal(p.x1, p.x0)));
      if (!survivors) continue;
      VF rgb[3];
      shade_lanes(draw, block, lane, sh_degree, p.d, rgb);
      const std::uint32_t index =
          draw.first_index + static_cast<std::uint32_t>((block - first) * kPackLanes) + lane;
      written += write_splats(p, rgb, p.u, p.u, p.x0, p.x1, index, survivors, splats + written);
    }
  }
  return written;
}

}  // namespace belvedere::BELVEDERE_ISA
