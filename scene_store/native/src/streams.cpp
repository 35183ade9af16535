#include "streams.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "columns.h"

namespace belvedere::store {
namespace {

constexpr std::size_t kHeaderBytes = 8;
constexpr std::size_t kCompactGeometryParameters = 104, kCompactShParameters = 4;
constexpr std::size_t kLosslessGeometryColumns = 14, kCompactGeometryColumns = 13;
constexpr std::uint64_t kUnknownSize = ~std::uint64_t{0};

[[noreturn]] void refuse(const std::string& problem) { throw std::invalid_argument(problem); }

template <typename T>
T read(std::string_view bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::uint64_t read_little(std::string_view bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    value |= std::uint64_t{static_cast<std::uint8_t>(bytes[at + i])} << (8 * i);
  }
  return value;
}

struct FrameOutline {
  std::size_t bytes;           // of the frame; 0 if it is cut short or none
  std::uint64_t content_size;  // what it says that it holds
};

// RFC 8878, section 3.1.1: the frame header, then blocks that each tell their size.
FrameOutline outline(std::string_view frame) {
  constexpr FrameOutline kNone{0, kUnknownSize};
  constexpr std::uint32_t kMagic = 0xFD2FB528u;
  if (frame.size() < 5 || read<std::uint32_t>(frame, 0) != kMagic) return kNone;
  const auto descriptor = static_cast<std::uint8_t>(frame[4]);
  const bool single_segment = descriptor & 0x20, checksum = descriptor & 0x04;
  constexpr std::size_t kDictionaryBytes[] = {0, 1, 2, 4}, kSizeBytes[] = {0, 2, 4, 8};
  const std::size_t size_flag = descriptor >> 6;
  const std::size_t size_bytes = size_flag == 0 && single_segment ? 1 : kSizeBytes[size_flag];
  const std::size_t size_at = 5 + (single_segment ? 0 : 1) + kDictionaryBytes[descriptor & 3];
  std::size_t at = size_at + size_bytes;
  if (at > frame.size()) return kNone;
  std::uint64_t content_size = size_bytes ? read_little(frame, size_at, size_bytes) : kUnknownSize;
  if (size_bytes == 2) content_size += 256;
  for (bool last = false; !last;) {
    if (frame.size() - at < 3) return kNone;
    const auto header = static_cast<std::uint32_t>(read_little(frame, at, 3));
    last = header & 1;
    constexpr std::uint32_t kRunLength = 1;
    const std::size_t size = ((header >> 1) & 3) == kRunLength ? 1 : header >> 3;
    at += 3;
    if (frame.size() - at < size) return kNone;
    at += size;
  }
  at += checksum ? 4 : 0;
  return at > frame.size() ? kNone : FrameOutline{at, content_size};
}

}  // namespace

StreamLayout read_layout(std::string_view stream, const ExpectedStream& expected) {
  const std::string name = expected.is_sh ? "harmonics" : "geometry";
  if (stream.size() < kHeaderBytes) refuse("its " + name + " is cut short");
  const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(stream[at]); };
  const int kind = byte(0), profile = byte(1), degree = byte(2);
  const std::size_t columns = byte(3), count = read<std::uint32_t>(stream, 4);
  if (kind != (expected.is_sh ? 1 : 0) || profile > 1) {
    refuse("its " + name + " is of an unknown kind");
  }
  if (count != expected.count || degree != expected.degree) {
    refuse("its " + name + " holds " + std::to_string(count) + " Gaussians of degree " +
           std::to_string(degree) + " instead of " + std::to_string(expected.count) +
           " of degree " + std::to_string(expected.degree));
  }
  const bool lossless = profile == 0;
  const auto bases = static_cast<std::size_t>((degree + 1) * (degree + 1));
  const std::size_t expected_columns =
      expected.is_sh ? 3 * (bases - 1)
                     : (lossless ? kLosslessGeometryColumns : kCompactGeometryColumns);
  const std::size_t parameters =
      lossless ? 0 : (expected.is_sh ? kCompactShParameters : kCompactGeometryParameters);
  const std::size_t widths_at = kHeaderBytes + parameters;
  const std::size_t frame_at = widths_at + columns;
  if (columns != expected_columns || stream.size() < frame_at) {
    refuse("the columns of its " + name + " make no sense");
  }
  const std::string_view widths = stream.substr(widths_at, columns);
  std::size_t row_bytes = 0;
  for (const char width : widths) {
    if (static_cast<std::uint8_t>(width) > 4) {
      refuse("the columns of its " + name + " make no sense");
    }
    row_bytes += static_cast<std::uint8_t>(width);
  }
  const std::string_view frame = stream.substr(frame_at);
  const FrameOutline found = outline(frame);
  if (found.bytes == 0) refuse("the planes of its " + name + " cannot be decompressed");
  const std::size_t raw_bytes = count * row_bytes;
  if (found.bytes != frame.size() || found.content_size != raw_bytes) {
    refuse("the planes of its " + name + " have the wrong size");
  }
  return {lossless, stream.substr(kHeaderBytes, parameters), widths, frame_at, raw_bytes};
}

}  // namespace belvedere::store
