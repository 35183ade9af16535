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

void TileBins::reset(TileWindow window, RecordBudget& budget) {
  const std::size_t slabs_used = (pages_used_ + kSlabPages - 1) / kSlabPages;
  if (slabs_.size() > 2 * slabs_used + 8) slabs_.resize(slabs_used + 8);
  window_ = window;
  budget_ = &budget;
  streams_.assign(window.tiles(), Stream{});
  pages_used_ = 0;
}

Page* TileBins::new_page() {
  const std::size_t slab = pages_used_ / kSlabPages;
  if (slab == slabs_.size()) {
    slabs_.emplace_back(new_slab());
  }
  if (pages_used_ % kSlabPages == 0) budget_->take(kSlabBytes);
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
  const int right = window_.tx0 + window_.columns - 1, bottom = window_.ty0 + window_.rows - 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 64 == 0 && budget_->exceeded()) return;
    const Splat& s = splats[i];
    const int tx0 = std::max(int{s.tx0}, window_.tx0), tx1 = std::min(int{s.tx1}, right);
    const int ty0 = std::max(int{s.ty0}, window_.ty0), ty1 = std::min(int{s.ty1}, bottom);
    if (tx0 > tx1 || ty0 > ty1) continue;
    if (s.tx0 == s.tx1 && s.ty0 == s.ty1) {  // most of them
      append_to(static_cast<std::size_t>(ty0 - window_.ty0) * window_.columns + (tx0 - window_.tx0),
                s);
      continue;
    }
    // An ellipse whose box is one row or column of tiles touches all of them.
    const bool exact = s.tx0 != s.tx1 && s.ty0 != s.ty1;
    for (int ty = ty0; ty <= ty1; ++ty) {
      int first = tx0, last = tx1;
      if (exact) {
        const float top = static_cast<float>(ty * kTileSize);
        const Span span = span_of_band(s, top + 0.5f, top + kTileSize - 0.5f);
        if (span.empty) continue;
        // Pixel centres lie half a pixel in; 0.01 px covers the rounding of the span.
        const float left_tile = std::max((span.left - 0.51f) / kTileSize, 0.0f);
        const float right_tile = std::min((span.right - 0.49f) / kTileSize, 65535.0f);
        first = std::max(static_cast<int>(std::min(left_tile, 65535.0f)), tx0);
        last = std::min(static_cast<int>(std::max(right_tile, -1.0f)), tx1);
      }
      const std::size_t row = static_cast<std::size_t>(ty - window_.ty0) * window_.columns;
      for (int tx = first; tx <= last; ++tx) append_to(row + (tx - window_.tx0), s);
    }
  }
}

TileBins::List TileBins::list(std::size_t tile) const {
  const Stream& stream = streams_[tile];
  if (!stream.first) return {nullptr, 0};
  return {stream.first, (stream.pages - 1) * kPageRecords + stream.in_last};
}

}  // namespace belvedere
