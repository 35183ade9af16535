// What the bindings share: arrays that cross as buffers, and checks of arguments.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "arguments.h"
#include "dispatch.h"

namespace belvedere::neural {

namespace nb = nanobind;

using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatVector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntVector = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using MutableVector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableInts = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline const Kernels& kernels_named(const std::string& name) {
  const Kernels* kernels = find_kernels(name);
  require(kernels != nullptr, "this processor has no such instruction set");
  return *kernels;
}

// Each file of bindings adds its own to the module.
void bind_decode(nb::module_& m);
void bind_mlp(nb::module_& m);
void bind_network(nb::module_& m);
void bind_sampling(nb::module_& m);

}  // namespace belvedere::neural
