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

namespace {

struct Columns {
  int first, last;
};

// Those of the tiles [tx0, tx1] that have a pixel centre from `left` to `right`.
inline Columns columns_between(float left, float right, int tx0, int tx1) {
  // Pixel centres lie half a pixel in; 0.01 px covers the rounding of the span.
  // The comparisons are false for NaN, which therefore covers the whole row.
  constexpr float kMost = 65535.0f;
  float first = (left - 0.51f) / kTileSize, last = (right - 0.49f) / kTileSize;
  first = first > 0.0f ? first : 0.0f;
  last = last < kMost ? last : kMost;
  return {std::max(static_cast<int>(first < kMost ? first : kMost), tx0),
          std::min(static_cast<int>(last > -1.0f ? last : -1.0f), tx1)};
}

}  // namespace

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
  // Where two eyes see it less than a tile apart, what is between is taken to be touched, too.
  float left_x = s.x, right_x = s.x;
  bool apart = false;
  if constexpr (pair) {
    left_x = std::min(s.x, s.other_x);
    right_x = std::max(s.x, s.other_x);
    if (right_x >= kNowhere) right_x = left_x;
    apart = right_x - left_x > kTileSize;
  }
  for (int ty = ty0; ty <= ty1; ++ty) {
    const std::size_t row = static_cast<std::size_t>(ty - window_.ty0) * window_.columns;
    const float top = static_cast<float>(ty * kTileSize);
    int tx = tx0;  // the first tile that does not have it yet
    for (int place = 0; place <= int{apart}; ++place) {
      const float from = place ? right_x : left_x, to = apart ? from : right_x;
      Columns columns{tx0, tx1};
      if (exact) {
        const Span span = span_of_band(s, from, to, top + 0.5f, top + kTileSize - 0.5f);
        if (span.empty) break;
        columns = columns_between(span.left, span.right, tx0, tx1);
      } else if (apart) {
        columns = columns_between(from - s.extent_x, from + s.extent_x, tx0, tx1);
      }
      for (tx = std::max(tx, columns.first); tx <= columns.last; ++tx) {
        if (!append_to(row + (tx - window_.tx0), s)) return false;
      }
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
