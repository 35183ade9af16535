#include "bindings.h"

namespace nb = nanobind;

namespace belvedere::store {

void bind_select(nb::module_&) {}

}  // namespace belvedere::store
