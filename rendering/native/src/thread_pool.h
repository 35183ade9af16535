// A pool of threads shared by all renders; any number of renders may use it at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace belvedere {

class ThreadPool {
 public:
  // The pool of the process, made at first use and never destroyed: joining threads while
  // a Python interpreter shuts down is a known way to hang.
  static ThreadPool& instance();

  // Runs task(i, worker) for every i in [0, count) on at most `threads` threads, this one
  // included, and returns when all are done. Tasks are handed out in order; `worker` is in
  // [0, threads), and tasks with the same worker never overlap. If a task
  // throws, no further ones are started, and the first exception is thrown again from here.
  // If the system refuses more threads, those there are do the work, if need be this one alone.
  using Task = std::function<void(std::size_t index, int worker)>;
  void parallel_for(std::size_t count, int threads, const Task& task);

 private:
  struct Job;
  void ensure_workers(int wanted);
  void work();

  std::mutex mutex_;
  std::condition_variable job_posted_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int workers_ = 0;
};

// Threads to use when the caller did not say: one for each core this process may use.
int default_threads();

}  // namespace belvedere
