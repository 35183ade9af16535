// Memory for arrays that are written before they are read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>

namespace belvedere {

// Aligned to a cache line and not cleared, so that pages nobody touches cost nothing.
template <typename T>
class Buffer {
 public:
  // Room for `count`; what was there before is lost. Grows with a margin, so that a buffer
  // that is used again and again settles.
  T* resize_uncleared(std::size_t count) {
    if (count > capacity_) allocate(count + (capacity_ ? count / 4 : 0));
    largest_ = std::max(largest_, count);
    return data_.get();
  }

  // Gives the memory back if nothing since the last call needed a quarter of it.
  void trim() {
    if (capacity_ / 4 > largest_) {
      data_.reset();
      capacity_ = 0;
    }
    largest_ = 0;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  void allocate(std::size_t count) {
    data_.reset();  // first: the two together may not fit
    capacity_ = 0;
    data_.reset(static_cast<T*>(::operator new[](count * sizeof(T), std::align_val_t{64})));
    capacity_ = count;
  }

  std::unique_ptr<T[], Free> data_;
  std::size_t capacity_ = 0, largest_ = 0;
};

}  // namespace belvedere
