#include "bindings.h"

namespace nb = nanobind;

namespace belvedere::store {

void bind_codec(nb::module_&) {}

}  // namespace belvedere::store
