// Which pixels of an image a chunk of Gaussians may touch.
#pragma once

#include "types.h"

namespace belvedere {

struct PixelBox {
  int x0, x1, y0, y1;  // inclusive, clipped to the image
};

// Conservative. False if nothing can be said: then it may touch all of the image.
bool footprint_of(const ChunkBounds& bounds, const CameraParams& camera, PixelBox& out);

}  // namespace belvedere
