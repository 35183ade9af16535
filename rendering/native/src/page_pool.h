// Memory for scenes that come and go in parts: pages of one size, so that nothing fragments.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "scene.h"

namespace belvedere {

// Hands out pages with room for `page_gaussians` and gives their memory back to the system.
// Safe to use from several threads.
class PagePool {
 public:
  PagePool(std::size_t page_gaussians, int sh_degree);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  std::size_t page_gaussians() const { return page_gaussians_; }
  int sh_degree() const { return sh_degree_; }
  std::size_t page_bytes() const { return page_bytes_; }

  // Pages that are kept for reuse when they come back; 0 gives each back to the system.
  void keep_free(std::size_t pages);
  std::size_t pages_in_use() const;

  std::byte* take();
  void give_back(std::byte* page) noexcept;
  SceneMemory memory_of(std::byte* page) const;

 private:
  std::size_t page_gaussians_;
  int sh_degree_;
  std::size_t rest_offset_, scale_offset_, bounds_offset_, page_bytes_;
  mutable std::mutex mutex_;
  std::vector<std::byte*> free_;
  std::size_t most_free_ = 8, in_use_ = 0;
};

// Gaussians in a page of a pool; the page goes back with them.
class PackedPage : public PackedGaussians {
 public:
  // Throws std::invalid_argument if they do not fit, std::bad_alloc if there is no memory.
  PackedPage(std::shared_ptr<PagePool> pool, const GaussianArrays& in, int threads);
  ~PackedPage() override;
  PackedPage(const PackedPage&) = delete;
  PackedPage& operator=(const PackedPage&) = delete;

  std::size_t bytes() const override { return pool_->page_bytes(); }

 private:
  std::shared_ptr<PagePool> pool_;
  std::byte* page_;
};

}  // namespace belvedere
