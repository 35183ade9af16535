#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <tuple>

#include "arrays.h"
#include "blocks.h"
#include "mlp_pack.h"

namespace belvedere::neural {
namespace {

using namespace nb::literals;

using LayerTuple = std::tuple<FloatMatrix, FloatVector, int, bool>;

void new_mlp(PackedMlp* self, int inputs, const std::vector<LayerTuple>& layers) {
  std::vector<LayerArrays> arrays;
  arrays.reserve(layers.size());
  for (const auto& [weight, bias, activation, skip] : layers) {
    require(weight.shape(0) <= 1u << 20 && weight.shape(1) <= 1u << 20, "a layer is too wide");
    require(bias.shape(0) == weight.shape(0), "a layer's bias has not one value an output");
    arrays.push_back({weight.data(), bias.data(), static_cast<int>(weight.shape(1)),
                      static_cast<int>(weight.shape(0)), activation, skip});
  }
  new (self) PackedMlp(inputs, arrays);
}

void mlp(const PackedMlp& network, const FloatMatrix& in, const MutableMatrix& out,
         const std::string& isa, int threads) {
  const MlpView& view = network.view();
  const Kernels& kernels = kernels_named(isa);
  const std::size_t samples = in.shape(1);
  require(in.shape(0) == static_cast<std::size_t>(view.inputs), "the input has the wrong width");
  require(out.shape(0) == static_cast<std::size_t>(view.outputs) && out.shape(1) == samples,
          "the output has the wrong shape");
  threads = thread_count(threads);
  nb::gil_scoped_release release;
  const std::size_t rows = view.inputs + view.outputs + 2 * static_cast<std::size_t>(view.widest);
  for_blocks(samples, threads, rows, [&](std::size_t first, float* scratch) {
    float* const result = scratch + view.inputs * kBlock;
    load_block(in.data(), samples, view.inputs, first, scratch);
    kernels.mlp(view, scratch, result, result + view.outputs * kBlock);
    store_block(result, view.outputs, samples, first, out.data());
  });
}

// Floating-point operations a second that `threads` threads reach in registers alone.
double operations_per_second_limit(const std::string& isa, int threads, int repeats) {
  const Kernels& kernels = kernels_named(isa);
  threads = thread_count(threads);
  require(repeats > 0, "repeats must be positive");
  nb::gil_scoped_release release;
  std::vector<std::uint64_t> done(threads);
  const auto start = std::chrono::steady_clock::now();
  ThreadPool::instance().parallel_for(threads, threads, [&](std::size_t i, int) {
    alignas(64) float sink[64] = {0.5f, 0.25f};
    done[i] = kernels.multiply_limit(repeats, sink);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::uint64_t sum = 0;
  for (const std::uint64_t count : done) sum += count;
  return static_cast<double>(sum) / seconds.count();
}

}  // namespace

void bind_mlp(nb::module_& m) {
  nb::class_<PackedMlp>(m, "Mlp")
      .def("__init__", &new_mlp, "inputs"_a, "layers"_a)
      .def_prop_ro("inputs", [](const PackedMlp& self) { return self.view().inputs; })
      .def_prop_ro("outputs", [](const PackedMlp& self) { return self.view().outputs; })
      .def_prop_ro("nbytes", &PackedMlp::bytes);
  m.def("mlp", &mlp, "network"_a, "x"_a, "out"_a, "isa"_a, "threads"_a);
  m.def("operations_per_second_limit", &operations_per_second_limit, "isa"_a, "threads"_a,
        "repeats"_a);
}

}  // namespace belvedere::neural
