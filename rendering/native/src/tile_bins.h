// Splats on their way from projection to tiles.
//
// Every thread appends the splats it projects to its own list of small pages for each tile:
// no counting pass, no locks, and, since neighbours in a scene are neighbours on screen,
// almost always into cache. Which thread projected what does not matter in the end: a tile
// orders its records by (depth, scene index), and that order is unique.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "types.h"

namespace belvedere {

struct TileGrid {
  int columns = 0, rows = 0;
  std::size_t tiles() const { return static_cast<std::size_t>(columns) * rows; }
};

constexpr std::size_t kPageRecords = 32;

struct alignas(64) Page {
  std::uint32_t keys[kPageRecords];  // the records' depths: sorting reads nothing else
  Record records[kPageRecords];
  Page* next;
  std::uint32_t slack[2];  // a sixteen-word read of the last record ends before here
};

// One thread's pages for all tiles of one frame.
class TileBins {
 public:
  // Forgets all records; keeps the memory.
  void reset(TileGrid grid);

  // Appends `count` splats to every tile that their ellipses touch.
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

  TileGrid grid_;
  std::vector<Stream> streams_;
  std::vector<std::unique_ptr<Page[], FreeSlab>> slabs_;
  std::size_t pages_used_ = 0;
};

}  // namespace belvedere
