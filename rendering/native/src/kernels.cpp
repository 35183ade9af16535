// Compiled once for each instruction set, with BELVEDERE_ISA naming the namespace.
#include "composite.h"
#include "fit_gaussian.h"
#include "fit_tile.h"
#include "project_pair.h"
#include "this_isa.h"

namespace belvedere::BELVEDERE_ISA {
namespace {

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

constexpr FitKernels kFit{fit_project, fit_tile, fit_update};

}  // namespace

extern const Kernels kKernels{BELVEDERE_ISA_NAME,  kLanes,             supported,
                              project_any,         project_chunk_pair, composite_any<false>,
                              composite_any<true>, composite_limit,    &kFit};

}  // namespace belvedere::BELVEDERE_ISA
