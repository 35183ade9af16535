#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace belvedere {

struct ThreadPool::Job {
  const Task* task;
  std::size_t count;
  int helpers_wanted;
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  int helpers_running = 0;  // guarded by the pool's mutex when rising, by `mutex` when falling

  std::atomic<int> workers{0};

  std::exception_ptr error;  // the first one thrown; guarded by `mutex`

  void run() {
    const int worker = workers.fetch_add(1, std::memory_order_relaxed);
    try {
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        (*task)(i, worker);
      }
    } catch (...) {
      next.store(count, std::memory_order_relaxed);  // nobody starts another task
      std::lock_guard guard(mutex);
      if (!error) error = std::current_exception();
    }
  }
};

ThreadPool& ThreadPool::instance() {
  static ThreadPool* pool = new ThreadPool;
  return *pool;
}

void ThreadPool::ensure_workers(int wanted) {
  try {
    for (; workers_ < wanted; ++workers_) std::thread([this] { work(); }).detach();
  } catch (const std::system_error&) {
    // No more threads for now; the next call asks again.
  }
}

void ThreadPool::work() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      job_posted_.wait(lock, [this] { return !jobs_.empty(); });
      job = jobs_.front();
      {
        std::lock_guard guard(job->mutex);
        ++job->helpers_running;
      }
      if (--job->helpers_wanted == 0) jobs_.pop_front();
    }
    job->run();
    {
      std::lock_guard guard(job->mutex);
      --job->helpers_running;
    }
    job->finished.notify_one();
  }
}

void ThreadPool::parallel_for(std::size_t count, int threads, const Task& task) {
  const int helpers =
      static_cast<int>(std::min<std::size_t>(threads > 0 ? threads - 1 : 0, count ? count - 1 : 0));
  if (helpers <= 0) {
    for (std::size_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  auto job = std::make_shared<Job>();
  job->task = &task;
  job->count = count;
  job->helpers_wanted = helpers;
  {
    std::lock_guard guard(mutex_);
    ensure_workers(std::max(helpers, default_threads() - 1));
    jobs_.push_back(job);
  }
  for (int i = 0; i < helpers; ++i) job_posted_.notify_one();
  job->run();
  {
    // Nobody may join from now on: `task` dies with this call.
    std::lock_guard guard(mutex_);
    const auto it = std::find(jobs_.begin(), jobs_.end(), job);
    if (it != jobs_.end()) jobs_.erase(it);
  }
  std::unique_lock lock(job->mutex);
  job->finished.wait(lock, [&] { return job->helpers_running == 0; });
  if (job->error) std::rethrow_exception(job->error);
}

int default_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace belvedere
