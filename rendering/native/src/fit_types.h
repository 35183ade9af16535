// Fitting Gaussians to pictures: what passes between fit.cpp and the kernels. As types.h, plain
// data alone.
#pragma once

#include "types.h"

namespace belvedere {

constexpr int kFitTile = 16;  // pixels a side; one task

// A row of parameters: mean 3, quaternion 4 (wxyz, of any length), logarithms of the scales 3,
// logit of the opacity 1, harmonics [bases][3]. Its row of moments: Adam's first and second ones
// of each parameter, then how often it was updated. Its row of observations: see FitSeen.
constexpr int kFitQuat = 3, kFitScale = 7, kFitOpacity = 10, kFitHarmonics = 11;

enum FitSeen { kSeenWeight, kSeenError, kSeenShift, kSeenViews, kFitSeen };

// A projected Gaussian: alpha at an offset is 2^(log2_opacity − a dx² − 2 b dx dy − c dy²).
struct FitSplat {
  float x, y, a, b, c, log2_opacity;
  float color[3];
  float extent_x, extent_y;
  float depth;
  std::uint32_t index;       // of its row
  std::uint32_t first_pair;  // its pairs with tiles follow one another
  std::uint32_t pairs;
  std::uint32_t clamped;  // bit c: colour channel c was below 0
};

// A splat as a tile takes it.
struct FitItem {
  std::uint32_t splat, pair;
};

// Sums over the pixels of a tile, of one splat. With q = α dL/dα, and d from its centre:
enum FitSum {
  kSumRed, kSumGreen, kSumBlue,  // dL/dcolor
  kSumQ, kSumX, kSumY,           // q, q dx, q dy
  kSumXx, kSumXy, kSumYy,        // q dx², q dx dy, q dy²
  kSumWeight, kSumError,         // of its share in the pixels, and that times their squared error
  kFitSums
};
struct FitPair {
  float sum[kFitSums];
};

struct FitTarget {
  const std::uint8_t* pixels;  // [H, W, 4] colour over black and alpha
  float background[3];
  float alpha_weight;  // of the error of alphas beside that of colours
  float robust;        // an error e counts e / sqrt(1 + (e / robust)²)
};

struct FitTile {
  const FitSplat* splats;
  const FitItem* items;  // front to back
  std::size_t count;
  int x, y;  // of its corner, pixels
  int width, height;
  FitTarget target;
  FitPair* pairs;
  float* image;  // [H, W, 4] what was drawn over the background, and alpha; null if not wanted
  double squared_error;  // out: summed over pixels and colours
};

struct FitRates {
  float mean;  // of the Gaussian's middle scale
  float quat, scale, opacity, color, harmonics;
  float beta1, beta2;
};

struct FitModel {
  std::size_t count;
  int bases;   // of the harmonics in a row
  int degree;  // that are used
  float* parameters;
  float* moments;
  float* seen;
};

// Of one set of kernels.
struct FitKernels {
  // Projects the rows [first, end): writes splats from `out` on, and returns how many.
  std::size_t (*project)(const FitModel&, const CameraParams&, std::size_t first, std::size_t end,
                         FitSplat* out);
  void (*tile)(FitTile&);
  // One step of Adam for splats [first, end), by the sums of their pairs.
  void (*update)(const FitModel&, const CameraParams&, const FitRates&, const FitSplat*,
                 const FitPair*, std::size_t first, std::size_t end);
};

}  // namespace belvedere
