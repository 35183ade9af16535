// Which kernels this processor runs.
#pragma once

#include <string>
#include <vector>

#include "types.h"

namespace belvedere::neural {

// All kernels that were compiled in and run here, best first. Never empty.
std::vector<const Kernels*> available_kernels();

// The named ones, or the best for an empty name; null if there is no such.
const Kernels* find_kernels(const std::string& name);

}  // namespace belvedere::neural
