// CRC-32 as zlib and PNG have it, sixteen bytes at a time (Intel's "slicing by N").
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace belvedere::store {

namespace crc32_detail {

constexpr std::size_t kSlices = 16;
using Tables = std::array<std::array<std::uint32_t, 256>, kSlices>;

// Of slice k: what a byte becomes after k more zero bytes.
constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < kSlices; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 255u];
    }
  }
  return tables;
}

inline constexpr Tables kTables = make_tables();

}  // namespace crc32_detail

inline std::uint32_t crc32(const std::uint8_t* bytes, std::size_t size) {
  using namespace crc32_detail;
  static_assert(std::endian::native == std::endian::little);
  std::uint32_t crc = 0xFFFFFFFFu;
  for (; size >= kSlices; bytes += kSlices, size -= kSlices) {
    std::uint32_t words[4];
    std::memcpy(words, bytes, sizeof(words));
    words[0] ^= crc;
    crc = 0;
    for (std::size_t w = 0; w < 4; ++w) {
      for (std::size_t b = 0; b < 4; ++b) {
        crc ^= kTables[kSlices - 1 - 4 * w - b][(words[w] >> (8 * b)) & 255u];
      }
    }
  }
  for (; size > 0; ++bytes, --size) crc = (crc >> 8) ^ kTables[0][(crc ^ *bytes) & 255u];
  return ~crc;
}

}  // namespace belvedere::store
