// Records from all over a file: one read each, without a buffer between and without the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <stdexcept>

#include "bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace belvedere::store {
namespace {

using Starts = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Records = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int kShort = -1;

// 0, or the error of the system, or kShort where the file ends before.
int read_fully(int file, std::uint8_t* out, std::size_t size, std::int64_t start) {
  while (size > 0) {
    const ssize_t done = ::pread(file, out, size, static_cast<off_t>(start));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    if (done == 0) return kShort;
    out += done;
    start += done;
    size -= static_cast<std::size_t>(done);
  }
  return 0;
}

int gather(int file, const Starts& starts, const Records& out) {
  const std::size_t count = starts.shape(0), size = out.shape(1);
  if (out.shape(0) != count) throw std::invalid_argument("there must be a row for each record");
  const std::int64_t* start = starts.data();
  std::uint8_t* row = out.data();
  nb::gil_scoped_release released;
  for (std::size_t i = 0; i < count;) {
    // Records that follow each other in the file do so in memory: they are one read.
    std::size_t end = i + 1;
    while (end < count && start[end] == start[end - 1] + static_cast<std::int64_t>(size)) ++end;
    const int error = read_fully(file, row + i * size, (end - i) * size, start[i]);
    if (error != 0) return error;
    i = end;
  }
  return 0;
}

}  // namespace

void bind_gather(nb::module_& m) {
  m.def("gather", &gather, "file"_a, "starts"_a, "out"_a,
        "Reads a record at each place of a file. 0, the system's error, or -1: it ends before.");
}

}  // namespace belvedere::store
