#include "page_arena.h"

#include <algorithm>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace belvedere {

namespace {

// Uncleared: pages are written before they are read. One huge page where the system has
// them, because a frame's records lie all over memory.
Page* new_slab() {
  void* const slab =
      ::operator new(PageArena::kSlabBytes, std::align_val_t{PageArena::kSlabBytes});
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(slab, PageArena::kSlabBytes, MADV_HUGEPAGE);  // a wish: nothing depends on it
#endif
  return static_cast<Page*>(slab);
}

}  // namespace

void PageArena::FreeSlab::operator()(Page* slab) const {
  ::operator delete(slab, std::align_val_t{kSlabBytes});
}

void PageArena::reset(std::size_t limit_bytes) {
  std::lock_guard guard(mutex_);
  most_slabs_used_ = std::max(most_slabs_used_, slabs_used());
  runs_taken_ = 0;
  const std::size_t slabs = limit_bytes / kSlabBytes;
  run_limit_ = slabs > 0 ? slabs * kSlabRuns : limit_bytes / kRunBytes;
  slabs_.resize(std::min(slabs_.size(), std::max<std::size_t>(slabs, 1)));
  exhausted_.store(false, std::memory_order_relaxed);
}

Page* PageArena::take_run() {
  std::lock_guard guard(mutex_);
  if (runs_taken_ >= run_limit_) {
    exhausted_.store(true, std::memory_order_relaxed);
    return nullptr;
  }
  const std::size_t slab = runs_taken_ / kSlabRuns;
  if (slab == slabs_.size()) slabs_.emplace_back(new_slab());
  return &slabs_[slab][runs_taken_++ % kSlabRuns * kRunPages];
}

void PageArena::trim() {
  reset(~std::size_t{0});
  std::lock_guard guard(mutex_);
  if (slabs_.size() > most_slabs_used_) {
    slabs_.resize(most_slabs_used_ + (slabs_.size() - most_slabs_used_) / 2);
  }
  most_slabs_used_ = 0;
}

}  // namespace belvedere
