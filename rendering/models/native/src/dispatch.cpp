#include "dispatch.h"

#include "instruction_sets.h"

namespace belvedere {

#define BELVEDERE_DECLARE(isa)             \
  namespace isa {                          \
  extern const neural::Kernels kNeuralKernels; \
  }
BELVEDERE_FOR_EACH_ISA(BELVEDERE_DECLARE)
#undef BELVEDERE_DECLARE

namespace neural {

std::vector<const Kernels*> available_kernels() {
#define BELVEDERE_TABLE(isa) &isa::kNeuralKernels,
  return supported_of<Kernels>({BELVEDERE_FOR_EACH_ISA(BELVEDERE_TABLE)});
#undef BELVEDERE_TABLE
}

const Kernels* find_kernels(const std::string& name) {
  return named_of(available_kernels(), name);
}

}  // namespace neural
}  // namespace belvedere
