// Compositing of one tile, front to back (image model, steps 3 and 4).
//
// The tile is cut into blocks of 4×4 pixels, and a block's colour and transmittance stay in
// registers while all splats that touch it pass by; so the inner loop has no stores, no
// masks in memory and one branch. What it costs is knowing which splats touch which block:
//   1. a batch of splats is gathered into L1, field by field;
//   2. for every splat and block row, the span of its box or, if it is large, of its ellipse
//      (ellipse.h) becomes a byte: one bit a block column;
//   3. for every block, its bit of those bytes is compressed into a list of batch positions;
//   4. the list is blended.
// Per pixel the arithmetic depends on nothing but the splat and the pixel, so tiles, batches
// and threads never change a byte of the image.
#pragma once

#include "image_model.h"
#include "simd.h"
#include "types.h"

namespace belvedere::BELVEDERE_ISA {

constexpr int kBatch = 256;  // with masks and lists inside L1
constexpr int kAhead = 48;  // records between asking memory for one and using it
static_assert(kAhead + 2 * kLanes <= kRecordPadding);
constexpr int kBlockPixels = kBlockSize * kBlockSize;
constexpr int kVectors = kBlockPixels / kLanes;  // vectors that hold a block
constexpr int kTileBlocks = kBlocksPerSide * kBlocksPerSide;
constexpr int kSaturationStride = 16;  // splats between two looks at the transmittance

// The words of a record, in the order of struct Splat, padded to a whole register of words.
enum Field {
  kX, kY, kWxx, kWxy, kWyy, kOpacity, kRed, kGreen, kBlue, kOtherX, kIndex, kExtentX, kExtentY,
  kDepth,  // not of the record
  kFields = 16
};
static_assert(kDepth == kRecordWords);

struct Batch {
  alignas(64) float field[kFields][kBatch];
  alignas(64) std::uint8_t coverage[kBlocksPerSide][kBatch];
  alignas(64) std::uint16_t list[kBatch + 32];
};

struct Tile {
  alignas(64) float transmittance[kTileBlocks][kBlockPixels];
  alignas(64) float red[kTileBlocks][kBlockPixels];
  alignas(64) float green[kTileBlocks][kBlockPixels];
  alignas(64) float blue[kTileBlocks][kBlockPixels];
  alignas(64) float depth[kTileBlocks][kBlockPixels];
  alignas(64) float median_depth[kTileBlocks][kBlockPixels];
  alignas(64) std::int32_t count[kTileBlocks][kBlockPixels];
};

BELVEDERE_INLINE VF pixel_x_offsets() {
  VF v;
  for (int i = 0; i < kLanes; ++i) v[i] = 0.5f + static_cast<float>(i % kBlockSize);
  return v;
}
BELVEDERE_INLINE VF pixel_y_offsets() {
  VF v;
  for (int i = 0; i < kLanes; ++i) v[i] = 0.5f + static_cast<float>(i / kBlockSize);
  return v;
}

enum class Want { kColor, kColorDepth, kEverything };

// Blends batch positions list[0 .. count) into one vector of pixels, those of `block` from
// `at` on, whose corner is pixel (x, y). A pixel takes them while its transmittance is above
// `least`. Returns whether any pixel still takes more.
template <Want want>
BELVEDERE_INLINE bool blend_vector(const Batch& batch, const std::uint16_t* list, int count,
                                   int block, int at, float x, float y, float least,
                                   Tile& tile) {
  constexpr bool with_depth = want != Want::kColor;
  constexpr bool with_all = want == Want::kEverything;
  const VF px = pixel_x_offsets() + x, py = pixel_y_offsets() + y;
  const VF cut = splat(kLog2AlphaCut), stop = splat(least);
  const VF alpha_max = splat(kAlphaMax);
  VF t = load(&tile.transmittance[block][at]);
  VF r = load(&tile.red[block][at]);
  VF g = load(&tile.green[block][at]);
  VF b = load(&tile.blue[block][at]);
  VF depth = {}, median = {};
  VI blended = {};
  if constexpr (with_depth) depth = load(&tile.depth[block][at]);
  if constexpr (with_all) {
    median = load(&tile.median_depth[block][at]);
    std::memcpy(&blended, &tile.count[block][at], sizeof blended);
  }
  bool alive = any(greater(t, stop));
  for (int i = 0; i < count && alive;) {
    const int stride_end = count < i + kSaturationStride ? count : i + kSaturationStride;
    for (; i < stride_end; ++i) {
      const int j = list[i];
      const auto field = [&](Field f) { return splat(batch.field[f][j]); };
      const VF dx = px - field(kX), dy = py - field(kY);
      const VF wx = fma(field(kWxx), dx, field(kWxy) * dy), wy = field(kWyy) * dy;
      const VF power = fma(-wx, wx, fma(-wy, wy, field(kOpacity)));
      // Only t is carried from splat to splat, so what depends on it is kept short: a
      // comparison, a product and a difference. Where t is not live, the weight is zero.
      const Mask visible = greater_equal(power, cut), live = greater(t, stop);
      const VF alpha = keep(visible, min(exp2(power), alpha_max));
      const VF weight = keep(live, alpha * t);
      const VF behind = t - weight;
      if constexpr (with_all) {
        const Mask falls = both(greater(t, splat(0.5f)), greater_equal(splat(0.5f), behind));
        median = select(falls, field(kDepth), median);
        blended += keep(both(visible, live), splat_int(1));
      }
      t = behind;
      r = fma(weight, field(kRed), r);
      g = fma(weight, field(kGreen), g);
      b = fma(weight, field(kBlue), b);
      if constexpr (with_depth) depth = fma(weight, field(kDepth), depth);
    }
    alive = any(greater(t, stop));
  }
  store(&tile.transmittance[block][at], t);
  store(&tile.red[block][at], r);
  store(&tile.green[block][at], g);
  store(&tile.blue[block][at], b);
  if constexpr (with_depth) store(&tile.depth[block][at], depth);
  if constexpr (with_all) {
    store(&tile.median_depth[block][at], median);
    std::memcpy(&tile.count[block][at], &blended, sizeof blended);
  }
  return alive;
}

// The same for a whole block. Vectors one after the other: two at once would need more
// registers than AVX2 has.
template <Want want>
BELVEDERE_INLINE bool blend(const Batch& batch, const std::uint16_t* list, int count, int block,
                            float x, float y, float least, Tile& tile) {
  constexpr float kRows = static_cast<float>(kLanes / kBlockSize);  // of a vector
  bool alive = false;
  for (int v = 0; v < kVectors; ++v) {
    alive |= blend_vector<want>(batch, list, count, block, v * kLanes, x,
                                y + static_cast<float>(v) * kRows, least, tile);
  }
  return alive;
}

// Step 1: the next `count` records of the tile, field by field, rounded up to whole vectors.
// Records lie all over memory, so they are asked for ahead of their time.
BELVEDERE_INLINE void gather(const Record* const* records, int count, Batch& batch) {
  for (int i = 0; i < count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      const char* ahead = reinterpret_cast<const char*>(records[i + kAhead + k]);
      __builtin_prefetch(ahead);
      __builtin_prefetch(ahead + kRecordBytes - 1);
    }
    for (int word = 0; word < kFields; word += kLanes) {
      VF rows[kLanes], columns[kLanes];
      for (int k = 0; k < kLanes; ++k) {
        rows[k] = load(reinterpret_cast<const float*>(records[i + k]->words + word));
      }
      transpose(rows, columns);
      for (int f = 0; f < kLanes; ++f) store(&batch.field[word + f][i], columns[f]);
    }
  }
}

// Step 2 for one splat and all block rows at once, exactly: a byte for each row.
inline std::uint64_t exact_coverage(const Batch& batch, int i, float tile_x, float tile_y) {
  typedef float Rows __attribute__((vector_size(kBlocksPerSide * 4)));
  typedef std::int32_t RowInts __attribute__((vector_size(kBlocksPerSide * 4)));
  typedef std::uint8_t RowBytes __attribute__((vector_size(kBlocksPerSide)));
  constexpr float kSlack = 0.01f;  // pixels; float32 rounding of spans is far below it
  const Rows tops = {0, 4, 8, 12, 16, 20, 24, 28};
  static_assert(kBlockSize == 4);
  const float x = batch.field[kX][i] - (tile_x + 0.5f);  // in units of pixel indices
  const float y = batch.field[kY][i] - (tile_y + 0.5f);
  const float extent = batch.field[kExtentY][i];
  const float inverse = 1.0f / batch.field[kWxx][i];
  const float shear = -batch.field[kWxy][i] * inverse, spread = batch.field[kWyy][i] * inverse;
  const float rightmost = shear * (extent / batch.field[kExtentX][i]) * extent;
  const Rows top = tops - y;
  const Rows bottom = top + static_cast<float>(kBlockSize - 1);
  const Rows lo = top > -extent ? top : Rows{} - extent;
  const Rows hi = bottom < extent ? bottom : Rows{} + extent;
  Rows at_right = lo > rightmost ? lo : Rows{} + rightmost;
  at_right = hi < at_right ? hi : at_right;
  Rows at_left = lo > -rightmost ? lo : Rows{} - rightmost;
  at_left = hi < at_left ? hi : at_left;
  Rows half_right = (extent - at_right) * (extent + at_right);
  Rows half_left = (extent - at_left) * (extent + at_left);
  half_right = half_right > 0.0f ? half_right : Rows{};
  half_left = half_left > 0.0f ? half_left : Rows{};
#if defined(__AVX2__)
  half_right = (Rows)_mm256_sqrt_ps((__m256)half_right);
  half_left = (Rows)_mm256_sqrt_ps((__m256)half_left);
#else
  for (int k = 0; k < kBlocksPerSide; ++k) {
    half_right[k] = __builtin_sqrtf(half_right[k]);
    half_left[k] = __builtin_sqrtf(half_left[k]);
  }
#endif
  Rows right = x + kSlack + shear * at_right + spread * half_right;
  Rows left = x - kSlack + shear * at_left - spread * half_left;
  // Pixel indices, clamped so that whatever misses the tile gives an empty range.
  left = left > 0.0f ? left : Rows{};
  left = left < float(kTileSize) ? left : Rows{} + float(kTileSize);
  right = right < float(kTileSize - 1) ? right : Rows{} + float(kTileSize - 1);
  right = right > -1.0f ? right : Rows{} - 1.0f;
  const RowInts first = __builtin_convertvector(left + 0.99999f, RowInts);
  const RowInts last = __builtin_convertvector(right + 1.0f, RowInts) - 1;
  const RowInts ones = RowInts{} + 1;
  const RowInts low_bit = ones << (first >> 2), high_bit = ones << ((last + kBlockSize) >> 2);
  const RowInts covered = ((hi >= lo) & (last >= first)) & (high_bit - low_bit);
  const RowBytes bytes = __builtin_convertvector(covered, RowBytes);
  std::uint64_t out;
  std::memcpy(&out, &bytes, sizeof out);
  return out;
}

// Step 2: coverage[row][i] gets bit c where splat i may reach the cut in block (row, c): its
// box for all, its ellipse for those large enough that the corners of the box matter.
//
// Every splat of a tile touches it, but in a tile of two eyes not for both: there its columns
// may be none.
template <bool pair>
inline void cover(float tile_x, float tile_y, int count, Batch& batch) {
  constexpr float kLarge = 5.0f;  // pixels of half extent, both ways
  for (int i = 0; i < count; i += kLanes) {
    const VF x = load(&batch.field[kX][i]) - (tile_x + 0.5f);
    const VF y = load(&batch.field[kY][i]) - (tile_y + 0.5f);
    const VF extent_x = load(&batch.field[kExtentX][i]), extent_y = load(&batch.field[kExtentY][i]);
    const VF lowest = splat(0.0f), highest = splat(kTileSize - 1.0f);
    VI x0, x1;
    if constexpr (pair) {
      constexpr float kWide = kTileSize, kBlock = kBlockSize;
      x0 = truncate(clamp(x - extent_x, lowest, splat(kWide)) + 0.99f) / kBlockSize;
      x1 = truncate(clamp(x + extent_x + 0.01f, splat(-kBlock), highest) + kBlock) / kBlockSize - 1;
    } else {
      x0 = truncate(clamp(x - extent_x, lowest, highest) + 0.99f) / kBlockSize;
      x1 = truncate(clamp(x + extent_x + 0.01f, lowest, highest)) / kBlockSize;
    }
    const VI y0 = truncate(clamp(y - extent_y, lowest, highest) + 0.99f) / kBlockSize;
    const VI y1 = truncate(clamp(y + extent_y + 0.01f, lowest, highest)) / kBlockSize;
    const VI one = splat_int(1);
    const VI columns = (one << (x1 + 1)) - (one << x0);
    const VI rows = (one << (y1 + 1)) - (one << y0);
    for (int row = 0; row < kBlocksPerSide; ++row) {
      const VI in_row = -(rows >> row & 1);
      const VB bytes = __builtin_convertvector(columns & in_row, VB);
      std::memcpy(&batch.coverage[row][i], &bytes, sizeof bytes);
    }
    std::uint32_t large = bits(both(greater(extent_x, splat(kLarge)), greater(extent_y, splat(kLarge))));
    for (; large; large &= large - 1) {
      const int at = i + __builtin_ctz(large);
      std::uint64_t exact = exact_coverage(batch, at, tile_x, tile_y);
      for (int row = 0; row < kBlocksPerSide; ++row, exact >>= 8) {
        batch.coverage[row][at] = static_cast<std::uint8_t>(exact);
      }
    }
  }
}

// Step 3: positions in [0, count) whose coverage byte has the bit of `column`.
BELVEDERE_INLINE int list_block(const std::uint8_t* coverage, int count, int column,
                                std::uint16_t* list) {
  int listed = 0;
#if defined(__AVX512VBMI2__)
  const __m512i bit = _mm512_set1_epi8(static_cast<char>(1 << column));
  __m512i index = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                   15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i step = _mm512_set1_epi16(32);
  for (int i = 0; i < count; i += 64) {
    const std::uint64_t hits = _mm512_test_epi8_mask(_mm512_loadu_si512(coverage + i), bit);
    const std::uint32_t lo = static_cast<std::uint32_t>(hits);
    const std::uint32_t hi = static_cast<std::uint32_t>(hits >> 32);
    _mm512_storeu_si512(list + listed, _mm512_maskz_compress_epi16(lo, index));
    listed += __builtin_popcount(lo);
    index = _mm512_add_epi16(index, step);
    _mm512_storeu_si512(list + listed, _mm512_maskz_compress_epi16(hi, index));
    listed += __builtin_popcount(hi);
    index = _mm512_add_epi16(index, step);
  }
#else
  for (int i = 0; i < count; i += 32) {
    std::uint32_t hits = 0;
#if defined(__AVX2__)
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(coverage + i));
    hits = static_cast<std::uint32_t>(
        _mm256_movemask_epi8(_mm256_sll_epi16(bytes, _mm_cvtsi32_si128(7 - column))));
#else
    for (int k = 0; k < 4; ++k) {  // gather eight bits at a time by multiplication
      std::uint64_t word;
      std::memcpy(&word, coverage + i + 8 * k, 8);
      word = (word >> column) & 0x0101010101010101u;
      hits |= static_cast<std::uint32_t>((word * 0x0102040810204080u) >> 56) << (8 * k);
    }
#endif
    while (hits) {
      list[listed++] = static_cast<std::uint16_t>(i + __builtin_ctz(hits));
      hits &= hits - 1;
    }
  }
#endif
  return listed;
}

// All pixels transparent; those outside the image saturated, so that nothing is spent on
// them. Returns the blocks that hold a pixel of the image, as bits.
template <Want want>
std::uint64_t clear(const CompositeTask& task, Tile& tile) {
  std::memset(tile.red, 0, sizeof tile.red);
  std::memset(tile.green, 0, sizeof tile.green);
  std::memset(tile.blue, 0, sizeof tile.blue);
  if constexpr (want != Want::kColor) std::memset(tile.depth, 0, sizeof tile.depth);
  if constexpr (want == Want::kEverything) {
    std::memset(tile.median_depth, 0, sizeof tile.median_depth);
    std::memset(tile.count, 0, sizeof tile.count);
  }
  std::uint64_t live = 0;
  for (int block = 0; block < kTileBlocks; ++block) {
    const int columns = task.width - (task.tile_x + block % kBlocksPerSide * kBlockSize);
    const int rows = task.height - (task.tile_y + block / kBlocksPerSide * kBlockSize);
    if (columns > 0 && rows > 0) live |= std::uint64_t{1} << block;
    float* const t = tile.transmittance[block];
    if (columns >= kBlockSize && rows >= kBlockSize) {
      for (int i = 0; i < kBlockPixels; ++i) t[i] = 1.0f;
    } else {
      for (int i = 0; i < kBlockPixels; ++i) {
        t[i] = i % kBlockSize < columns && i / kBlockSize < rows ? 1.0f : 0.0f;
      }
    }
  }
  return live;
}

// Writes `columns` neighbouring pixels, from `i` of `block` to `pixel` of the image. What was
// left when a pixel stopped earlier than it must gets the pixel's own colour.
BELVEDERE_INLINE void write_row(const CompositeTask& task, const ImageTargets& out,
                                const Tile& tile, int block, int i, std::size_t pixel,
                                int columns) {
  const float* const left = &tile.transmittance[block][i];
  const float opaque = task.transmittance_stop > kTransmittanceStop ? task.transmittance_stop : -1;
  float t[kBlockSize], gain[kBlockSize];
  for (int k = 0; k < columns; ++k) {
    const bool is_opaque = left[k] <= opaque;
    gain[k] = is_opaque ? 1.0f / (1.0f - left[k]) : 1.0f;
    t[k] = is_opaque ? 0.0f : left[k];
    out.alpha[pixel + k] = 1.0f - t[k];
  }
  if (out.color) {
    const float* const r = &tile.red[block][i];
    const float* const g = &tile.green[block][i];
    const float* const b = &tile.blue[block][i];
    float* const color = out.color + 3 * pixel;
    for (int k = 0; k < columns; ++k) {
      color[3 * k] = r[k] * gain[k] + t[k] * task.background[0];
      color[3 * k + 1] = g[k] * gain[k] + t[k] * task.background[1];
      color[3 * k + 2] = b[k] * gain[k] + t[k] * task.background[2];
    }
  }
  if (out.depth) {
    for (int k = 0; k < columns; ++k) {
      const float alpha = 1.0f - left[k];
      out.depth[pixel + k] = alpha > 0 ? tile.depth[block][i + k] / alpha : 0.0f;
    }
  }
  if (out.median_depth) {
    for (int k = 0; k < columns; ++k) {
      out.median_depth[pixel + k] = tile.median_depth[block][i + k];
    }
  }
  if (out.count) {
    for (int k = 0; k < columns; ++k) out.count[pixel + k] = tile.count[block][i + k];
  }
}

inline void write_image(const CompositeTask& task, const ImageTargets& out, const Tile& tile) {
  const int rows = task.height - task.tile_y < kTileSize ? task.height - task.tile_y : kTileSize;
  const int columns = task.width - task.tile_x < kTileSize ? task.width - task.tile_x : kTileSize;
  for (int y = 0; y < rows; ++y) {
    const std::size_t line = static_cast<std::size_t>(task.tile_y + y) * task.width + task.tile_x;
    const int i = y % kBlockSize * kBlockSize;
    for (int x = 0; x < columns; x += kBlockSize) {
      const int block = y / kBlockSize * kBlocksPerSide + x / kBlockSize;
      const std::size_t pixel = line + static_cast<std::size_t>(x);
      if (columns - x >= kBlockSize) {  // a constant, so that it is unrolled
        write_row(task, out, tile, block, i, pixel, kBlockSize);
      } else {
        write_row(task, out, tile, block, i, pixel, columns - x);
      }
    }
  }
}

// One batch of a tile, as one eye sees it. Returns the blocks that take more, of `live` ones.
template <Want want>
BELVEDERE_INLINE std::uint64_t blend_batch(const CompositeTask& task, int count,
                                           std::uint64_t live, Batch& batch, Tile& tile) {
  const int padded = (count + 63) / 64 * 64;
  for (int row = 0; row < kBlocksPerSide; ++row) {
    std::memset(&batch.coverage[row][count], 0, padded - count);
    for (int column = 0; column < kBlocksPerSide; ++column) {
      const int block = row * kBlocksPerSide + column;
      if (!(live >> block & 1)) continue;
      const int listed = list_block(batch.coverage[row], count, column, batch.list);
      if (!listed) continue;
      const float x = static_cast<float>(task.tile_x + column * kBlockSize);
      const float y = static_cast<float>(task.tile_y + row * kBlockSize);
      if (!blend<want>(batch, batch.list, listed, block, x, y, task.transmittance_stop, tile)) {
        live &= ~(std::uint64_t{1} << block);
      }
    }
  }
  return live;
}

// For one eye, or for two that share each batch once it is gathered.
template <Want want, bool pair>
void composite(const CompositeTask& task) {
  constexpr int kEyes = pair ? 2 : 1;
  const float tile_x = static_cast<float>(task.tile_x), tile_y = static_cast<float>(task.tile_y);
  Tile tiles[kEyes];
  Batch batch;
  std::uint64_t live[kEyes];
  for (int eye = 0; eye < kEyes; ++eye) live[eye] = clear<want>(task, tiles[eye]);
  for (std::size_t first = 0; first < task.count; first += kBatch) {
    if (!(live[0] | live[kEyes - 1])) break;
    const int count =
        task.count - first < kBatch ? static_cast<int>(task.count - first) : kBatch;
    gather(task.records + first, count, batch);
    if constexpr (want != Want::kColor) {
      for (int i = 0; i < count; ++i) {
        std::memcpy(&batch.field[kDepth][i], &task.items[first + i].key, 4);
      }
    }
    for (int eye = 0; eye < kEyes; ++eye) {
      if (eye == 1) std::memcpy(batch.field[kX], batch.field[kOtherX], sizeof batch.field[kX]);
      if (!live[eye]) continue;
      cover<pair>(tile_x, tile_y, count, batch);
      live[eye] = blend_batch<want>(task, count, live[eye], batch, tiles[eye]);
    }
  }
  for (int eye = 0; eye < kEyes; ++eye) write_image(task, task.targets[eye], tiles[eye]);
}

template <bool pair>
void composite_any(const CompositeTask& task) {
  const ImageTargets& out = task.targets[0];  // both eyes want the same images
  if (out.median_depth || out.count) {
    composite<Want::kEverything, pair>(task);
  } else if (out.depth) {
    composite<Want::kColorDepth, pair>(task);
  } else {
    composite<Want::kColor, pair>(task);
  }
}

// The same blend over splats that sit in L1 and cover every pixel of one block.
inline std::uint64_t composite_limit(int repeats, float* sink) {
  Tile tile;
  Batch batch;
  for (int i = 0; i < kBatch; ++i) {
    const float wobble = static_cast<float>(i % 7) * 0.1f;
    const float values[] = {2.0f + wobble, 2.0f - wobble, 0.03f,  -0.002f, 0.03f,
                            -7.5f,         0.5f,          wobble, 0.25f};
    for (int f = 0; f <= kBlue; ++f) batch.field[f][i] = values[f];
    batch.list[i] = static_cast<std::uint16_t>(i);
  }
  std::memset(&tile, 0, sizeof tile);
  for (int n = 0; n < repeats; ++n) {
    for (int i = 0; i < kBlockPixels; ++i) tile.transmittance[0][i] = 1.0f;
    blend<Want::kColor>(batch, batch.list, kBatch, 0, 0.0f, 0.0f, kTransmittanceStop, tile);
    asm volatile("" : : "r"(&tile) : "memory");  // else what nobody reads is not computed
  }
  *sink = tile.red[0][0];
  return static_cast<std::uint64_t>(repeats) * kBatch * kBlockPixels;
}

}  // namespace belvedere::BELVEDERE_ISA
