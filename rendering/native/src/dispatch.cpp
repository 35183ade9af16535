#include "dispatch.h"

namespace belvedere {

#define BELVEDERE_DECLARE(isa) \
  namespace isa {              \
  extern const Kernels kKernels; \
  }
#if defined(BELVEDERE_WITH_X86)
BELVEDERE_DECLARE(avx512)
BELVEDERE_DECLARE(avx2)
#endif
#if defined(BELVEDERE_WITH_NEON)
BELVEDERE_DECLARE(neon)
#endif
BELVEDERE_DECLARE(scalar)
#undef BELVEDERE_DECLARE

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
  for (const Kernels* kernels : {
#if defined(BELVEDERE_WITH_X86)
           &avx512::kKernels, &avx2::kKernels,
#endif
#if defined(BELVEDERE_WITH_NEON)
           &neon::kKernels,
#endif
           &scalar::kKernels}) {
    if (kernels->supported()) found.push_back(kernels);
  }
  return found;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Kernels* kernels : available_kernels()) {
    if (name.empty() || name == kernels->name) return kernels;
  }
  return nullptr;
}

}  // namespace belvedere
