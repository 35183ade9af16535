// Memory for scenes that come and go in parts: pages of one size, so that nothing fragments.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "scene.h"

namespace belvedere {

// Hands out pages with room for `page_gaussians` and gives their memory back to the system.
// Safe to use from several threads.
//
// Pages lie side by side in slabs, whose addresses are asked for in huge pages: a page of the
// system costs a fault and a search whenever it is new, and a fault takes longer than what is
// written there. A page that is not needed gives its memory back by itself; its slab's
// addresses follow when none of its pages has memory.
class PagePool {
 public:
  struct Slab;
  struct Page {
    std::byte* memory;
    Slab* slab;
  };

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

  // Throws std::bad_alloc if there is no memory. What the page holds is undefined.
  Page take();
  void give_back(Page page) noexcept;
  SceneMemory memory_of(Page page) const;

 private:
  Slab& slab_with_room();
  void return_to_system(Page page) noexcept;

  std::size_t page_gaussians_;
  int sh_degree_;
  std::size_t rest_offset_, scale_offset_, bounds_offset_, page_bytes_, slab_pages_;
  mutable std::mutex mutex_;  // guards all that follows
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<Slab*> open_;  // those with a page that has no memory
  std::vector<Page> free_;   // pages that have memory, and no use
  std::size_t most_free_, in_use_ = 0;
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
  PagePool::Page page_;
};

// Rows of arrays, as a page of their own.
struct PageRows {
  std::size_t first, count;
};

// A page for each of `rows`, all or none; exceptions as of PackedPage.
std::vector<std::unique_ptr<PackedPage>> pack_pages(const std::shared_ptr<PagePool>& pool,
                                                    const GaussianArrays& in,
                                                    std::span<const PageRows> rows, int threads);

}  // namespace belvedere
