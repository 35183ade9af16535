#include "page_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>

#include "thread_pool.h"

namespace belvedere {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kSlabBytes = 4 * kHugePage;  // at least
constexpr std::size_t kFreeBytes = 2 * kHugePage;  // kept for reuse unless told otherwise

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t system_page() {
  const long size = ::sysconf(_SC_PAGESIZE);
  return size > 0 ? static_cast<std::size_t>(size) : 4096;
}

// Addresses without memory, at a huge page's border.
std::byte* reserve(std::size_t bytes) {
  void* const whole = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) throw std::bad_alloc();
  auto* const start = static_cast<std::byte*>(whole);
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::size_t before = rounded_up(address, kHugePage) - address;
  if (before > 0) ::munmap(start, before);
  ::munmap(start + before + bytes, kHugePage - before);
#if defined(MADV_HUGEPAGE)
  ::madvise(start + before, bytes, MADV_HUGEPAGE);  // a wish: nothing depends on it
#endif
  return start + before;
}

}  // namespace

struct PagePool::Slab {
  Slab(std::size_t page_bytes, std::size_t pages)
      : bytes(page_bytes * pages), pages(pages), start(reserve(bytes)) {
    vacant.reserve(pages);
    for (std::size_t i = pages; i-- > 0;) vacant.push_back(start + i * page_bytes);
  }
  ~Slab() { ::munmap(start, bytes); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::size_t bytes, pages;
  std::byte* start;
  std::vector<std::byte*> vacant;  // pages without memory; room for all of them
  bool broken_up = false;          // some page gave its memory back: huge ones are gone
};

PagePool::PagePool(std::size_t page_gaussians, int sh_degree)
    : page_gaussians_(page_gaussians), sh_degree_(sh_degree) {
  const SceneSize size(page_gaussians, sh_degree);
  rest_offset_ = rounded_up(size.blocks * sizeof(GeometryBlock), kAlignment);
  scale_offset_ = rounded_up(rest_offset_ + size.sh_rest() * sizeof(std::int16_t), kAlignment);
  bounds_offset_ = rounded_up(scale_offset_ + size.sh_rest_scales() * sizeof(float), kAlignment);
  page_bytes_ = rounded_up(bounds_offset_ + size.chunks * sizeof(ChunkBounds), system_page());
  slab_pages_ = (kSlabBytes + page_bytes_ - 1) / page_bytes_;
  most_free_ = std::max<std::size_t>(1, kFreeBytes / page_bytes_);
}

PagePool::~PagePool() = default;

void PagePool::keep_free(std::size_t pages) {
  std::lock_guard guard(mutex_);
  most_free_ = pages;
  for (; free_.size() > most_free_; free_.pop_back()) return_to_system(free_.back());
}

std::size_t PagePool::pages_in_use() const {
  std::lock_guard guard(mutex_);
  return in_use_;
}

PagePool::Page PagePool::take() {
  Page page{};
  bool broken_up = false;
  {
    std::lock_guard guard(mutex_);
    // Room to take any page back without allocating then.
    if (free_.capacity() < in_use_ + free_.size() + 1) {
      free_.reserve(2 * (in_use_ + free_.size() + 1));
    }
    if (free_.empty()) {
      Slab& slab = slab_with_room();
      page = {slab.vacant.back(), &slab};
      slab.vacant.pop_back();
      broken_up = slab.broken_up;
      if (slab.vacant.empty()) std::erase(open_, &slab);
    } else {
      page = free_.back();
      free_.pop_back();
    }
    ++in_use_;
  }
#if defined(MADV_POPULATE_WRITE)
  if (broken_up) ::madvise(page.memory, page_bytes_, MADV_POPULATE_WRITE);  // all faults at once
#else
  (void)broken_up;
#endif
  return page;
}

PagePool::Slab& PagePool::slab_with_room() {
  if (open_.empty()) {
    open_.reserve(slabs_.size() + 1);
    slabs_.push_back(std::make_unique<Slab>(page_bytes_, slab_pages_));
    open_.push_back(slabs_.back().get());
  }
  return *open_.back();
}

void PagePool::give_back(Page page) noexcept {
  std::lock_guard guard(mutex_);
  --in_use_;
  if (free_.size() < most_free_) {
    free_.push_back(page);
  } else {
    return_to_system(page);
  }
}

void PagePool::return_to_system(Page page) noexcept {
  Slab& slab = *page.slab;
  ::madvise(page.memory, page_bytes_, MADV_DONTNEED);
  slab.broken_up = true;
  if (slab.vacant.empty()) open_.push_back(&slab);  // there is room: every slab once was open
  slab.vacant.push_back(page.memory);
  if (slab.vacant.size() < slab.pages) return;
  std::erase(open_, &slab);
  std::erase_if(slabs_, [&](const auto& each) { return each.get() == &slab; });
}

SceneMemory PagePool::memory_of(Page page) const {
  return {reinterpret_cast<GeometryBlock*>(page.memory),
          reinterpret_cast<std::int16_t*>(page.memory + rest_offset_),
          reinterpret_cast<float*>(page.memory + scale_offset_),
          reinterpret_cast<ChunkBounds*>(page.memory + bounds_offset_)};
}

PackedPage::PackedPage(std::shared_ptr<PagePool> pool, const GaussianArrays& in, int threads)
    : pool_(std::move(pool)) {
  if (in.count > pool_->page_gaussians() || in.sh_degree > pool_->sh_degree()) {
    throw std::invalid_argument("more Gaussians, or of a higher degree, than fit a page");
  }
  page_ = pool_->take();
  count = in.count;
  view = pack_into(in, threads, pool_->memory_of(page_));
}

PackedPage::~PackedPage() { pool_->give_back(page_); }

std::vector<std::unique_ptr<PackedPage>> pack_pages(const std::shared_ptr<PagePool>& pool,
                                                    const GaussianArrays& in,
                                                    std::span<const PageRows> rows, int threads) {
  const auto bases = static_cast<std::size_t>((in.sh_degree + 1) * (in.sh_degree + 1));
  std::vector<std::unique_ptr<PackedPage>> pages(rows.size());
  ThreadPool::instance().parallel_for(rows.size(), threads, [&](std::size_t i, int) {
    const auto [first, count] = rows[i];
    const GaussianArrays part{count,
                              in.sh_degree,
                              in.means + 3 * first,
                              in.quats + 4 * first,
                              in.scales + 3 * first,
                              in.opacities + first,
                              in.sh + 3 * bases * first};
    pages[i] = std::make_unique<PackedPage>(pool, part, 1);
  });
  return pages;
}

}  // namespace belvedere
