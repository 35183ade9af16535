// The frame around a stream's planes: a header, and Zstandard. docs/format.md specifies both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace belvedere::store {

// What a stream must hold, as the tree says.
struct ExpectedStream {
  bool is_sh;
  std::size_t count;
  int degree;  // of the harmonics; 0 for geometry
};

// Where the parts of a stream lie.
struct StreamLayout {
  bool lossless;
  std::string_view parameters, widths;
  std::size_t frame_offset;  // of the Zstandard frame, to the stream's end
  std::size_t raw_bytes;     // of what the frame holds
};

// Reads a stream's header and the outline of its frame, and holds both against what is
// expected, so that whoever decompresses it knows how much memory that takes. Throws
// std::invalid_argument with a phrase if they do not agree.
StreamLayout read_layout(std::string_view stream, const ExpectedStream& expected);

}  // namespace belvedere::store
