// Columns of integers as byte planes: the raw form of a chunk's stream, before compression.
//
// A column of N integers is stored as its low bytes, then its second bytes, and so on, in as
// many planes of N bytes as its largest value needs. A column of zeros takes no plane at all.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace belvedere::store {

static_assert(std::endian::native == std::endian::little, "streams are little-endian");

// Small magnitudes of either sign become small numbers: 0, -1, 1, -2 … → 0, 1, 2, 3 …
inline std::uint32_t zigzag(std::int32_t v) {
  return (static_cast<std::uint32_t>(v) << 1) ^ static_cast<std::uint32_t>(v >> 31);
}
inline std::uint32_t unzigzag(std::uint32_t v) { return (v >> 1) ^ (0u - (v & 1u)); }

inline void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

// The numbers that precede the planes.
class ParameterWriter {
 public:
  template <typename T>
  void put(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    bytes_.append(bytes, sizeof(T));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class ParameterReader {
 public:
  explicit ParameterReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T get() {
    require(bytes_.size() >= sizeof(T), "its parameters are cut short");
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return value;
  }
  void require_end() const { require(bytes_.empty(), "its parameters are too long"); }

 private:
  std::string_view bytes_;
};

class ColumnWriter {
 public:
  // The stream takes `columns` columns of `count` values below 2^(8 * widest).
  ColumnWriter(std::size_t count, std::size_t columns, std::size_t widest) : count_(count) {
    widths_.reserve(columns);
    planes_.reserve(count * columns * widest);
  }

  void put(const std::uint32_t* values) {
    std::uint32_t used = 0;
    for (std::size_t i = 0; i < count_; ++i) used |= values[i];
    const int width = (std::bit_width(used) + 7) / 8;
    widths_.push_back(static_cast<char>(width));
    for (int plane = 0; plane < width; ++plane) {
      const std::size_t start = planes_.size();
      planes_.resize(start + count_);
      char* out = planes_.data() + start;
      for (std::size_t i = 0; i < count_; ++i) {
        out[i] = static_cast<char>(values[i] >> (8 * plane));
      }
    }
  }

  const std::string& widths() const { return widths_; }
  const std::string& planes() const { return planes_; }

 private:
  std::size_t count_;
  std::string widths_, planes_;
};

class ColumnReader {
 public:
  ColumnReader(std::size_t count, std::string_view widths, std::string_view planes)
      : count_(count) {
    std::size_t offset = 0;
    columns_.reserve(widths.size());
    for (const char width : widths) {
      const auto bytes = static_cast<unsigned char>(width);
      require(bytes <= 4, "a column is wider than 4 bytes");
      require((planes.size() - offset) / (count ? count : 1) >= bytes, "its planes are cut short");
      columns_.push_back({reinterpret_cast<const std::uint8_t*>(planes.data()) + offset, bytes});
      offset += bytes * count;
    }
    require(offset == planes.size(), "its planes are too long");
  }

  std::size_t columns() const { return columns_.size(); }

  // Values `start` to `start + size` of a column.
  void get(std::size_t column, std::size_t start, std::size_t size, std::uint32_t* out) const {
    const Column& c = columns_[column];
    const std::uint8_t* low = c.planes + start;
    const std::uint8_t* second = low + count_;
    const std::uint8_t* third = second + count_;
    switch (c.width) {
      case 0:
        std::memset(out, 0, size * sizeof(*out));
        break;
      case 1:
        for (std::size_t i = 0; i < size; ++i) out[i] = low[i];
        break;
      case 2:
        for (std::size_t i = 0; i < size; ++i) out[i] = low[i] | std::uint32_t(second[i]) << 8;
        break;
      default:
        for (std::size_t i = 0; i < size; ++i) {
          out[i] = low[i] | std::uint32_t(second[i]) << 8 | std::uint32_t(third[i]) << 16;
        }
        if (c.width == 4) {
          const std::uint8_t* fourth = third + count_;
          for (std::size_t i = 0; i < size; ++i) out[i] |= std::uint32_t(fourth[i]) << 24;
        }
    }
  }

 private:
  struct Column {
    const std::uint8_t* planes;
    int width;
  };
  std::size_t count_;
  std::vector<Column> columns_;
};

}  // namespace belvedere::store
