// Splats on their way from projection to tiles.
//
// Every thread appends the splats it projects to its own list of small pages for each tile:
// no counting pass, no locks, and, since neighbours in a scene are neighbours on screen,
// almost always into cache. Which thread projected what does not matter in the end: a tile
// orders its records by (depth, scene index), and that order is unique.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "types.h"

namespace belvedere {

// A rectangle of tiles: the whole image, or a part of it where the whole would not fit into
// the memory allowed.
struct TileWindow {
  int tx0 = 0, ty0 = 0, columns = 0, rows = 0;
  std::size_t tiles() const { return static_cast<std::size_t>(columns) * rows; }
  int tx(std::size_t tile) const { return tx0 + static_cast<int>(tile) % columns; }
  int ty(std::size_t tile) const { return ty0 + static_cast<int>(tile) / columns; }
};

// Bytes of records that the threads of one frame may hold together.
class RecordBudget {
 public:
  explicit RecordBudget(std::size_t bytes) : bytes_(bytes) {}
  void take(std::size_t bytes) { taken_.fetch_add(bytes, std::memory_order_relaxed); }
  bool exceeded() const { return taken_.load(std::memory_order_relaxed) > bytes_; }

 private:
  const std::size_t bytes_;
  std::atomic<std::size_t> taken_{0};
};

constexpr std::size_t kPageRecords = 32;

struct alignas(64) Page {
  std::uint32_t keys[kPageRecords];  // the records' depths: sorting reads nothing else
  Record records[kPageRecords];
  Page* next;
  std::uint32_t slack[2];  // a sixteen-word read of the last record ends before here
};

// One thread's pages for all tiles of a window.
class TileBins {
 public:
  // Forgets all records. Keeps the memory, unless the last frame needed far less of it.
  void reset(TileWindow window, RecordBudget& budget);

  // Appends `count` splats to every tile of the window that their ellipses touch. Stops
  // early, with lists that are of no use, once the budget is exceeded.
  void append(const Splat* splats, std::size_t count);

  struct List {
    const Page* first;
    std::size_t count;
  };
  List list(std::size_t tile) const;
  std::size_t capacity_bytes() const { return slabs_.size() * kSlabPages * sizeof(Page); }

 private:
  static constexpr std::size_t kSlabPages = (std::size_t{1} << 21) / sizeof(Page);
  struct Stream {
    Page* first = nullptr;
    Page* last = nullptr;
    std::uint32_t in_last = kPageRecords;  // full: the next record opens a page
    std::uint32_t pages = 0;
  };
  struct FreeSlab {
    void operator()(Page* slab) const;
  };
  void append_to(std::size_t tile, const Splat& splat);
  Page* new_page();

  TileWindow window_;
  RecordBudget* budget_ = nullptr;
  std::vector<Stream> streams_;
  std::vector<std::unique_ptr<Page[], FreeSlab>> slabs_;
  std::size_t pages_used_ = 0;
};

}  // namespace belvedere
