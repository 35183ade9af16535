// Compiled once for each instruction set, with BELVEDERE_ISA naming the namespace.
#include "composite.h"
#include "project_pair.h"

namespace belvedere::BELVEDERE_ISA {
namespace {

bool supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");
#else
  return true;
#endif
}

std::uint32_t project_any(const ProjectTask& task, const ChunkDraw& chunk, Splat* splats) {
  switch (task.camera->model) {
    case CameraModel::kPinhole:
      return project_chunk<CameraModel::kPinhole>(task, chunk, splats);
    case CameraModel::kOrtho:
      return project_chunk<CameraModel::kOrtho>(task, chunk, splats);
    case CameraModel::kFisheye:
      return project_chunk<CameraModel::kFisheye>(task, chunk, splats);
  }
  return 0;
}

}  // namespace

#define BELVEDERE_STRING_(x) #x
#define BELVEDERE_STRING(x) BELVEDERE_STRING_(x)

extern const Kernels kKernels{BELVEDERE_STRING(BELVEDERE_ISA), kLanes,           supported,
                              project_any,         project_chunk_pair, composite_any<false>,
                              composite_any<true>, composite_limit};

}  // namespace belvedere::BELVEDERE_ISA
