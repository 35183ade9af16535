// Encodings as the kernels take them, checked: whatever they are given, kernels read within the
// arrays.
#pragma once

#include <memory>
#include <vector>

#include "types.h"

namespace belvedere::neural {

struct FrequencyOptions {
  int dims;
  bool input_first, input_last, by_dimension;
};

struct GridLevel {
  double scale;
  std::int64_t resolution, entries, first;
  bool hashed;
};

// A table of `entries` entries of `features` values, of 16 bits each or 32.
struct GridTable {
  const void* values;
  std::int64_t entries;
  int features;
  bool half;
};

class PackedEncoding {
 public:
  // What keeps a table or planes, which are not copied.
  using Owner = std::shared_ptr<const void>;

  // All throw std::invalid_argument if something is out of range.
  static std::shared_ptr<PackedEncoding> identity(int dims);
  static std::shared_ptr<PackedEncoding> frequencies(const std::vector<double>& radians,
                                                     const FrequencyOptions& options);
  static std::shared_ptr<PackedEncoding> harmonics(int degree, bool remapped);
  static std::shared_ptr<PackedEncoding> hash_grid(const std::vector<GridLevel>& levels,
                                                   const GridTable& table, double shift,
                                                   Owner owner);
  static std::shared_ptr<PackedEncoding> planes(std::vector<PlaneView> planes, int dims,
                                                bool summed, Owner owner);
  static std::shared_ptr<PackedEncoding> parts(
      std::vector<std::shared_ptr<PackedEncoding>> parts);

  // Valid as long as this object.
  const EncodingView& view() const { return view_; }

 private:
  static std::shared_ptr<PackedEncoding> make(EncodingKind kind, int inputs, int outputs);

  EncodingView view_{};
  Owner owner_;
  std::vector<double> quarter_turns_;
  std::vector<GridLevelView> levels_;
  std::vector<PlaneView> planes_;
  std::vector<EncodingView> part_views_;
  std::vector<std::shared_ptr<PackedEncoding>> parts_;
};

}  // namespace belvedere::neural
