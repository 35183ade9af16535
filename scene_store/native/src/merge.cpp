#include "bindings.h"

namespace nb = nanobind;

namespace belvedere::store {

void bind_merge(nb::module_&) {}

}  // namespace belvedere::store
