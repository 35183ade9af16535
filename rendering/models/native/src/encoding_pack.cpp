#include "encoding_pack.h"

#include <bit>
#include <cmath>
#include <utility>

#include "arguments.h"

namespace belvedere::neural {
namespace {

constexpr int kMaxOutputs = 2048;
constexpr std::int64_t kMaxTexels = std::int64_t{1} << 30;  // of a plane, all channels

GridLevelView::Wrap wrap_of(const GridLevel& level, float shift) {
  if (std::has_single_bit(static_cast<std::uint64_t>(level.entries))) {
    return GridLevelView::Wrap::kMask;
  }
  if (level.hashed) return GridLevelView::Wrap::kModulo;
  // The largest coordinate is that of the far corner of a position at 1, in float32 as the kernel
  // computes it: a scale just below a whole number is that number there.
  const std::int64_t r = level.resolution;
  const float last = std::floor(static_cast<float>(level.scale) + shift);
  const auto most = static_cast<std::int64_t>(last) + 1;
  const bool small = most <= 2048 && r <= 2048;
  return small && most * (1 + r + r * r) < 2 * level.entries ? GridLevelView::Wrap::kOnce
                                                             : GridLevelView::Wrap::kModulo;
}

}  // namespace

std::shared_ptr<PackedEncoding> PackedEncoding::make(EncodingKind kind, int inputs, int outputs) {
  require(inputs > 0 && inputs <= kMaxOutputs && outputs > 0 && outputs <= kMaxOutputs,
          "an encoding takes and gives 1 to 2048 values");
  auto made = std::make_shared<PackedEncoding>();
  made->view_.kind = kind;
  made->view_.inputs = inputs;
  made->view_.outputs = outputs;
  return made;
}

std::shared_ptr<PackedEncoding> PackedEncoding::identity(int dims) {
  return make(EncodingKind::kIdentity, dims, dims);
}

std::shared_ptr<PackedEncoding> PackedEncoding::frequencies(const std::vector<double>& radians,
                                                            const FrequencyOptions& options) {
  require(radians.size() <= 64, "an encoding has at most 64 frequencies");
  require(options.dims > 0 && options.dims <= kMaxOutputs, "an encoding of too many values");
  const int count = static_cast<int>(radians.size());
  auto made = make(EncodingKind::kFrequency, options.dims,
                   options.dims * (2 * count + options.input_first + options.input_last));
  for (const double frequency : radians) {
    require(std::isfinite(frequency), "a frequency is not finite");
    made->quarter_turns_.push_back(frequency * 0.63661977236758134308);  // 2 / π
  }
  made->view_.quarter_turns = made->quarter_turns_.data();
  made->view_.frequencies = count;
  made->view_.input_first = options.input_first;
  made->view_.input_last = options.input_last;
  made->view_.by_dimension = options.by_dimension;
  return made;
}

std::shared_ptr<PackedEncoding> PackedEncoding::harmonics(int degree, bool remapped) {
  require(degree >= 1 && degree <= 5, "harmonics are of degree 1 to 5");
  auto made = make(EncodingKind::kHarmonics, 3, degree * degree);
  made->view_.degree = degree;
  made->view_.remapped = remapped;
  return made;
}

std::shared_ptr<PackedEncoding> PackedEncoding::hash_grid(const std::vector<GridLevel>& levels,
                                                          const GridTable& table, double shift,
                                                          Owner owner) {
  require(!levels.empty() && levels.size() <= 32, "a hash grid has 1 to 32 levels");
  require(table.features > 0 && table.features <= 64, "a hash grid has 1 to 64 features a level");
  require(table.entries > 0 && table.entries <= std::int64_t{1} << 31,
          "a hash grid has 1 to 2^31 entries");
  require(shift >= 0 && shift <= 1, "a hash grid is shifted by 0 to 1");
  auto made = make(EncodingKind::kHashGrid, 3, static_cast<int>(levels.size()) * table.features);
  for (const GridLevel& level : levels) {
    require(level.entries > 0 && level.first >= 0 && level.entries <= table.entries &&
                level.first <= table.entries - level.entries,
            "a level of a hash grid reaches beyond its table");
    require(level.scale >= 0 && level.scale <= 1 << 24, "a level's scale is 0 to 2^24");
    require(level.resolution > 0 && level.resolution <= 1 << 24, "a level of no vertices");
    made->levels_.push_back({static_cast<float>(level.scale),
                             static_cast<std::uint32_t>(level.resolution),
                             static_cast<std::uint32_t>(level.entries),
                             static_cast<std::uint32_t>(level.first), level.hashed,
                             wrap_of(level, static_cast<float>(shift))});
  }
  made->owner_ = std::move(owner);
  EncodingView& view = made->view_;
  view.table = table.values;
  view.half = table.half;
  view.features = table.features;
  view.shift = static_cast<float>(shift);
  view.levels = made->levels_.data();
  view.level_count = static_cast<int>(made->levels_.size());
  return made;
}

std::shared_ptr<PackedEncoding> PackedEncoding::planes(std::vector<PlaneView> planes, int dims,
                                                       bool summed, Owner owner) {
  require(!planes.empty() && planes.size() <= 64, "an encoding has 1 to 64 planes");
  std::int64_t outputs = 0;
  for (const PlaneView& p : planes) {
    require(p.channels > 0 && p.channels <= kMaxOutputs && p.width > 0 && p.height > 0 &&
                p.width <= 1 << 20 && p.height <= 1 << 20 &&
                std::int64_t{p.width} * p.height * p.channels <= kMaxTexels,
            "a plane of absurd size");
    require(!p.line || (p.length > 0 && p.length <= 1 << 20), "a line of absurd size");
    require(p.whole_width > 0 && p.whole_height > 0 && p.whole_width <= 1 << 24 &&
                p.whole_height <= 1 << 24 && p.column >= 0 && p.row >= 0 &&
                p.width <= p.whole_width - p.column && p.height <= p.whole_height - p.row,
            "a plane's window lies beyond it");
    for (const int axis : p.axes) require(axis >= 0 && axis < dims, "a plane of no such axis");
    outputs += summed ? 1 : p.channels;
  }
  require(outputs <= kMaxOutputs, "an encoding gives 1 to 2048 values");
  auto made = make(EncodingKind::kPlanes, dims, static_cast<int>(outputs));
  made->owner_ = std::move(owner);
  made->planes_ = std::move(planes);
  made->view_.planes = made->planes_.data();
  made->view_.plane_count = static_cast<int>(made->planes_.size());
  made->view_.summed = summed;
  return made;
}

std::shared_ptr<PackedEncoding> PackedEncoding::parts(
    std::vector<std::shared_ptr<PackedEncoding>> parts) {
  require(!parts.empty() && parts.size() <= 64, "an encoding has 1 to 64 parts");
  int outputs = 0;
  for (const auto& part : parts) {
    require(part->view_.inputs == parts[0]->view_.inputs, "parts of different inputs");
    outputs += part->view_.outputs;
    require(outputs <= kMaxOutputs, "an encoding gives 1 to 2048 values");
  }
  auto made = make(EncodingKind::kParts, parts[0]->view_.inputs, outputs);
  for (const auto& part : parts) made->part_views_.push_back(part->view_);
  made->parts_ = std::move(parts);
  made->view_.parts = made->part_views_.data();
  made->view_.part_count = static_cast<int>(made->part_views_.size());
  return made;
}

}  // namespace belvedere::neural
