#include "page_pool.h"

#include <sys/mman.h>

#include <new>
#include <stdexcept>

namespace belvedere {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kSystemPage = 4096;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

PagePool::PagePool(std::size_t page_gaussians, int sh_degree)
    : page_gaussians_(page_gaussians), sh_degree_(sh_degree) {
  const SceneSize size(page_gaussians, sh_degree);
  rest_offset_ = rounded_up(size.blocks * sizeof(GeometryBlock), kAlignment);
  scale_offset_ = rounded_up(rest_offset_ + size.sh_rest() * sizeof(std::int16_t), kAlignment);
  bounds_offset_ = rounded_up(scale_offset_ + size.sh_rest_scales() * sizeof(float), kAlignment);
  page_bytes_ = rounded_up(bounds_offset_ + size.chunks * sizeof(ChunkBounds), kSystemPage);
}

PagePool::~PagePool() {
  for (std::byte* page : free_) ::munmap(page, page_bytes_);
}

void PagePool::keep_free(std::size_t pages) {
  std::lock_guard guard(mutex_);
  most_free_ = pages;
  for (; free_.size() > most_free_; free_.pop_back()) ::munmap(free_.back(), page_bytes_);
}

std::size_t PagePool::pages_in_use() const {
  std::lock_guard guard(mutex_);
  return in_use_;
}

std::byte* PagePool::take() {
  std::lock_guard guard(mutex_);
  // Room to take any page back without allocating then.
  free_.reserve(free_.size() + in_use_ + 1);
  std::byte* page = nullptr;
  if (free_.empty()) {
    void* fresh = ::mmap(nullptr, page_bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) throw std::bad_alloc();
    page = static_cast<std::byte*>(fresh);
  } else {
    page = free_.back();
    free_.pop_back();
  }
  ++in_use_;
  return page;
}

void PagePool::give_back(std::byte* page) noexcept {
  std::lock_guard guard(mutex_);
  --in_use_;
  if (free_.size() < most_free_) {
    free_.push_back(page);
  } else {
    ::munmap(page, page_bytes_);
  }
}

SceneMemory PagePool::memory_of(std::byte* page) const {
  return {reinterpret_cast<GeometryBlock*>(page),
          reinterpret_cast<std::int16_t*>(page + rest_offset_),
          reinterpret_cast<float*>(page + scale_offset_),
          reinterpret_cast<ChunkBounds*>(page + bounds_offset_)};
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

}  // namespace belvedere
