#include "tile_bins.h"

#include <algorithm>
#include <cstring>

#include "ellipse.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace belvedere {

namespace {

constexpr std::size_t kSlabBytes = std::size_t{1} << 21;

// Uncleared: pages are written before they are read. One huge page where the system has
// them, because a frame's records lie all over memory.
Page* new_slab() {
  void* const slab = ::operator new(kSlabBytes, std::align_val_t{kSlabBytes});
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(slab, kSlabBytes, MADV_HUGEPAGE);  // a wish: nothing depends on its success
#endif
  return static_cast<Page*>(slab);
}

}  // namespace

void TileBins::FreeSlab::operator()(Page* slab) const {
  ::operator delete(slab, std::align_val_t{kSlabBytes});
}

void TileBins::reset(TileGrid grid) {
  grid_ = grid;
  streams_.assign(grid.tiles(), Stream{});
  pages_used_ = 0;
}

Page* TileBins::new_page() {
  const std::size_t slab = pages_used_ / kSlabPages;
  if (slab == slabs_.size()) {
    slabs_.emplace_back(new_slab());
  }
  return &slabs_[slab][pages_used_++ % kSlabPages];
}

inline void TileBins::append_to(std::size_t tile, const Splat& splat) {
  Stream& stream = streams_[tile];
  if (stream.in_last == kPageRecords) {
    Page* const page = new_page();
    page->next = nullptr;
    (stream.last ? stream.last->next : stream.first) = page;
    stream.last = page;
    stream.in_last = 0;
    ++stream.pages;
  }
  std::memcpy(&stream.last->keys[stream.in_last], &splat.depth, 4);
  std::memcpy(&stream.last->records[stream.in_last++], &splat, kRecordBytes);
}

void TileBins::append(const Splat* splats, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const Splat& s = splats[i];
    const int columns = s.tx1 - s.tx0, rows = s.ty1 - s.ty0;
    if (columns == 0 || rows == 0) {  // an ellipse in one row or column touches all of it
      for (int ty = s.ty0; ty <= s.ty1; ++ty) {
        for (int tx = s.tx0; tx <= s.tx1; ++tx) {
          append_to(static_cast<std::size_t>(ty) * grid_.columns + tx, s);
        }
      }
      continue;
    }
    for (int ty = s.ty0; ty <= s.ty1; ++ty) {
      const float top = static_cast<float>(ty * kTileSize);
      const Span span = span_of_band(s, top + 0.5f, top + kTileSize - 0.5f);
      if (span.empty) continue;
      // Pixel centres lie half a pixel in; 0.01 px covers the rounding of the span.
      const float first = (span.left - 0.51f) / kTileSize, last = (span.right - 0.49f) / kTileSize;
      const int tx0 = std::max(static_cast<int>(std::max(first, 0.0f)), int{s.tx0});
      const int tx1 = std::min(static_cast<int>(std::min(last, 65535.0f)), int{s.tx1});
      for (int tx = tx0; tx <= tx1; ++tx) {
        append_to(static_cast<std::size_t>(ty) * grid_.columns + tx, s);
      }
    }
  }
}

TileBins::List TileBins::list(std::size_t tile) const {
  const Stream& stream = streams_[tile];
  if (!stream.first) return {nullptr, 0};
  return {stream.first, (stream.pages - 1) * kPageRecords + stream.in_last};
}

}  // namespace belvedere
