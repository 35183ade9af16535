// Checks of what comes from Python, shared by the modules that draw.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "thread_pool.h"

namespace belvedere {

inline void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

// Threads to use where the caller asked for `wanted`, 0 meaning one for each core.
constexpr int kMostThreads = 1024;
inline int thread_count(int wanted) {
  require(wanted >= 0 && wanted <= kMostThreads, "threads must be 0 to 1024");
  return wanted > 0 ? wanted : std::min(default_threads(), kMostThreads);
}

}  // namespace belvedere
