// Steps of rays through what is not empty (splat.fields.OccupancySampler).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace belvedere::neural {

// Which cells of nested grids are occupied, and which blocks of 2, 4, 8 … cells a side have any
// that are.
class Occupancy {
 public:
  // `cells` [cascades][side][side][side], (z, y, x). Cascade k covers the cube of side
  // 2^(k + 1 − cascades) around the centre of the unit cube. Throws std::invalid_argument.
  Occupancy(const bool* cells, int cascades, int side);

  int cascades() const { return cascades_; }
  int side() const { return side_; }
  std::size_t bytes() const { return words_.size() * sizeof(words_[0]); }

  // Whether any cell is occupied in the block of 2^level cells a side that has cell (x, y, z).
  bool any(int cascade, int level, int x, int y, int z) const {
    const Level& l = levels_[static_cast<std::size_t>(cascade) * level_count_ + level];
    const std::size_t bit =
        (static_cast<std::size_t>(z >> level) * l.side + (y >> level)) * l.side + (x >> level);
    return words_[l.first_word + bit / 64] >> (bit % 64) & 1;
  }
  int level_count() const { return level_count_; }

 private:
  struct Level {
    std::size_t first_word;
    int side;
  };

  int cascades_, side_, level_count_;
  std::vector<Level> levels_;
  std::vector<std::uint64_t> words_;
};

struct StepRule {
  double min_step, max_step, cone_angle;
};

// One ray: y = o + t d in the field's coordinates.
struct MarchRay {
  float origin[3], direction[3];
  float enter, first, last;  // t
};

constexpr std::int32_t kMarchDone = 0x7fffffff;

// Writes up to `most` samples from step `cursor` on, and where to go on; returns how many. With
// `skips` empty space is passed over in blocks, without it step by step: the samples are the same.
int march_ray(const Occupancy& occupancy, const StepRule& rule, const MarchRay& ray, bool skips,
              int most, std::int32_t& cursor, float* t, float* length);

}  // namespace belvedere::neural
