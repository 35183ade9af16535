// Splats on their way from projection to tiles.
//
// Every thread appends the splats it projects to its own list of small pages for each tile:
// no counting pass, no locks, and, since neighbours in a scene are neighbours on screen,
// almost always into cache. Which thread projected what does not matter in the end: a tile
// orders its records by (depth, scene index), and that order is unique.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "page_arena.h"
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

// One thread's pages for all tiles of a window.
class TileBins {
 public:
  // Memory that a window of so many tiles takes before there is any record.
  static std::size_t bytes_for(std::size_t tiles) { return tiles * sizeof(Stream); }

  // Forgets all records, and takes pages for the next ones from `arena`.
  void reset(TileWindow window, PageArena& arena);

  // Appends `count` splats to every tile of the window that their ellipses touch, of a `pair`
  // for either eye. Stops early, with lists that are of no use, once the arena is exhausted.
  template <bool pair>
  void append(const Splat* splats, std::size_t count);

  struct List {
    const Page* first;
    std::size_t count;
  };
  List list(std::size_t tile) const;

  void trim() { streams_.trim(); }
  std::size_t bytes() const { return streams_.bytes(); }  // without pages

 private:
  struct Stream {
    Page* first;
    Page* last;
    std::uint32_t in_last;  // kPageRecords: the next record opens a page
    std::uint32_t pages;
  };
  template <bool pair>
  bool append_to_all(const Splat& splat);
  bool append_to(std::size_t tile, const Splat& splat);
  bool open_page(Stream& stream);

  TileWindow window_;
  PageArena* arena_ = nullptr;
  Buffer<Stream> streams_;
  Page* run_ = nullptr;       // pages not yet opened
  std::size_t run_left_ = 0;
};

}  // namespace belvedere
