#include "tile_bins.h"

#include <algorithm>
#include <cstring>

#include "ellipse.h"

namespace belvedere {

void TileBins::reset(TileWindow window, PageArena& arena) {
  window_ = window;
  arena_ = &arena;
  run_left_ = 0;
  std::fill_n(streams_.resize_uncleared(window.tiles()), window.tiles(),
              Stream{nullptr, nullptr, kPageRecords, 0});
}

bool TileBins::open_page(Stream& stream) {
  if (run_left_ == 0) {
    run_ = arena_->take_run();
    if (!run_) return false;
    run_left_ = PageArena::kRunPages;
  }
  Page* const page = run_++;
  --run_left_;
  page->next = nullptr;
  (stream.last ? stream.last->next : stream.first) = page;
  stream.last = page;
  stream.in_last = 0;
  ++stream.pages;
  return true;
}

inline bool TileBins::append_to(std::size_t tile, const Splat& splat) {
  Stream& stream = streams_.data()[tile];
  if (stream.in_last == kPageRecords && !open_page(stream)) return false;
  std::memcpy(&stream.last->keys[stream.in_last], &splat.depth, 4);
  std::memcpy(&stream.last->records[stream.in_last++], &splat, kRecordBytes);
  return true;
}

// False if the arena is exhausted.
template <bool pair>
inline bool TileBins::append_to_all(const Splat& s) {
  const int right = window_.tx0 + window_.columns - 1, bottom = window_.ty0 + window_.rows - 1;
  const int tx0 = std::max(int{s.tx0}, window_.tx0), tx1 = std::min(int{s.tx1}, right);
  const int ty0 = std::max(int{s.ty0}, window_.ty0), ty1 = std::min(int{s.ty1}, bottom);
  if (tx0 > tx1 || ty0 > ty1) return true;
  if (s.tx0 == s.tx1 && s.ty0 == s.ty1) {  // most of them
    const std::size_t row = static_cast<std::size_t>(ty0 - window_.ty0) * window_.columns;
    return append_to(row + (tx0 - window_.tx0), s);
  }
  // An ellipse whose box is one row or column of tiles touches all of them.
  const bool exact = s.tx0 != s.tx1 && s.ty0 != s.ty1;
  // Where two eyes see it, the tiles between are taken to be touched, too.
  float left_x = s.x, right_x = s.x;
  if constexpr (pair) {
    left_x = std::min(s.x, s.other_x);
    right_x = std::max(s.x, s.other_x);
    if (right_x >= kNowhere) right_x = left_x;
  }
  for (int ty = ty0; ty <= ty1; ++ty) {
    int first = tx0, last = tx1;
    if (exact) {
      const float top = static_cast<float>(ty * kTileSize);
      const Span span = span_of_band(s, left_x, right_x, top + 0.5f, top + kTileSize - 0.5f);
      if (span.empty) continue;
      // Pixel centres lie half a pixel in; 0.01 px covers the rounding of the span.
      // The comparisons are false for NaN, which therefore covers the whole row.
      constexpr float kMost = 65535.0f;
      float left = (span.left - 0.51f) / kTileSize, right = (span.right - 0.49f) / kTileSize;
      left = left > 0.0f ? left : 0.0f;
      right = right < kMost ? right : kMost;
      first = std::max(static_cast<int>(left < kMost ? left : kMost), tx0);
      last = std::min(static_cast<int>(right > -1.0f ? right : -1.0f), tx1);
    }
    const std::size_t row = static_cast<std::size_t>(ty - window_.ty0) * window_.columns;
    for (int tx = first; tx <= last; ++tx) {
      if (!append_to(row + (tx - window_.tx0), s)) return false;
    }
  }
  return true;
}

template <bool pair>
void TileBins::append(const Splat* splats, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!append_to_all<pair>(splats[i])) return;
  }
}
template void TileBins::append<false>(const Splat*, std::size_t);
template void TileBins::append<true>(const Splat*, std::size_t);

TileBins::List TileBins::list(std::size_t tile) const {
  const Stream& stream = streams_.data()[tile];
  if (!stream.first) return {nullptr, 0};
  return {stream.first, (stream.pages - 1) * kPageRecords + stream.in_last};
}

}  // namespace belvedere
