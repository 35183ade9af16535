// The Python face of the kernels of neural models. Arrays cross as buffers, without copies; the
// GIL is released while anything is computed.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"

namespace belvedere::neural {
namespace {

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
  return names;
}

}  // namespace
}  // namespace belvedere::neural

NB_MODULE(_neural, m) {
  using namespace belvedere::neural;
  m.doc() = "Kernels of neural models; use rendering.models.components.";
  bind_decode(m);
  bind_mlp(m);
  bind_network(m);
  bind_sampling(m);
  m.def("instruction_sets", &instruction_sets);
  m.attr("BLOCK") = kBlock;
  m.attr("MAX_THREADS") = belvedere::kMostThreads;
}
