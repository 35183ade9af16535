// Batches [values, M] of samples, split into blocks that threads work on.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "buffer.h"
#include "thread_pool.h"
#include "types.h"

namespace belvedere::neural {

constexpr std::size_t kBlocksPerTask = 8;

// `rows` rows of samples [first, first + count) into a block; what is missing are zeros.
inline void load_block(const float* batch, std::size_t samples, int rows, std::size_t first,
                       float* block) {
  const std::size_t count = std::min<std::size_t>(kBlock, samples - first);
  for (int r = 0; r < rows; ++r, block += kBlock) {
    std::memcpy(block, batch + r * samples + first, sizeof(float) * count);
    std::fill(block + count, block + kBlock, 0.0f);
  }
}

inline void store_block(const float* block, int rows, std::size_t samples, std::size_t first,
                        float* batch) {
  const std::size_t count = std::min<std::size_t>(kBlock, samples - first);
  for (int r = 0; r < rows; ++r, block += kBlock) {
    std::memcpy(batch + r * samples + first, block, sizeof(float) * count);
  }
}

// Calls task(first sample, scratch) for every block of `samples`, on `threads` threads, each with
// `scratch_rows` rows of kBlock floats of its own.
template <typename Task>
void for_blocks(std::size_t samples, int threads, std::size_t scratch_rows, const Task& task) {
  const std::size_t blocks = (samples + kBlock - 1) / kBlock;
  const std::size_t tasks = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  threads = static_cast<int>(std::min<std::size_t>(threads, std::max<std::size_t>(tasks, 1)));
  std::vector<Buffer<float>> scratch(threads);
  for (auto& buffer : scratch) buffer.resize_uncleared(scratch_rows * kBlock);
  ThreadPool::instance().parallel_for(tasks, threads, [&](std::size_t index, int worker) {
    const std::size_t end = std::min(blocks, (index + 1) * kBlocksPerTask);
    for (std::size_t b = index * kBlocksPerTask; b < end; ++b) {
      task(b * kBlock, scratch[worker].data());
    }
  });
}

}  // namespace belvedere::neural
