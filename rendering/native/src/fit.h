// Fitting Gaussians to a picture: one step of all rows that it shows.
#pragma once

#include <vector>

#include "buffer.h"
#include "fit_types.h"

namespace belvedere {

// Memory that steps share; one step at a time.
struct FitWorkspace {
  Buffer<FitSplat> splats, sorted;
  Buffer<FitPair> pairs;
  Buffer<FitItem> items;
  Buffer<DepthItem> depths, scratch;
  std::vector<std::uint32_t> tile_start;
};

struct FitResult {
  double squared_error;  // summed over pixels and colours
  std::size_t splats, pairs;
};

// Draws the picture and, if there are rates, takes a step against its error. Moments and what is
// seen are untouched without. The same bytes whatever the threads. Throws std::bad_alloc.
FitResult fit_picture(const FitKernels& kernels, const FitModel& model, const CameraParams& camera,
                      const FitTarget& target, const FitRates* rates, int threads, float* image,
                      FitWorkspace& workspace);

}  // namespace belvedere
