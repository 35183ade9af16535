#include "bindings.h"

namespace nb = nanobind;

namespace belvedere::store {

void bind_morton(nb::module_&) {}

}  // namespace belvedere::store
