// Memory for the records of one frame, shared by its threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "types.h"

namespace belvedere {

constexpr std::size_t kPageRecords = 32;

struct alignas(64) Page {
  std::uint32_t keys[kPageRecords];  // the records' depths: sorting reads nothing else
  Record records[kPageRecords];
  Page* next;
};
static_assert(offsetof(Page, records) + (kPageRecords - 1) * kRecordBytes + sizeof(Splat) <=
                  sizeof(Page),
              "sixteen words may be read of the last record");

// Hands pages to threads, a run of them at a time, up to a limit that all share: what a frame
// may use does not depend on how many threads draw it. The system gives the memory in slabs.
class PageArena {
 public:
  static constexpr std::size_t kRunPages = 16;
  static constexpr std::size_t kRunBytes = kRunPages * sizeof(Page);
  static constexpr std::size_t kSlabBytes = std::size_t{1} << 21;  // a huge page

  // Takes all pages back. From now on at most `limit_bytes` are handed out, and no more
  // memory is kept than that or one slab, whichever is more.
  void reset(std::size_t limit_bytes);

  // kRunPages uncleared pages in a row, by any thread; null beyond the limit.
  Page* take_run();

  // Whether somebody was refused since reset().
  bool exhausted() const { return exhausted_.load(std::memory_order_relaxed); }

  // Between frames: gives back half of the memory that the last frame did not need, so that
  // a large frame does not bind its memory for ever, nor does a small one cost the next
  // large one all of it. All pages are taken back.
  void trim();

  std::size_t bytes() const { return slabs_.size() * kSlabBytes; }

 private:
  static constexpr std::size_t kSlabRuns = kSlabBytes / kRunBytes;
  struct FreeSlab {
    void operator()(Page* slab) const;
  };
  std::size_t slabs_used() const { return (runs_taken_ + kSlabRuns - 1) / kSlabRuns; }

  std::mutex mutex_;  // guards all that follows
  std::vector<std::unique_ptr<Page[], FreeSlab>> slabs_;
  std::size_t runs_taken_ = 0, run_limit_ = 0;
  std::size_t most_slabs_used_ = 0;  // since trim()
  std::atomic<bool> exhausted_{false};
};

}  // namespace belvedere
