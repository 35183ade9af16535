// Do all kernels of this processor draw the same picture? A program without Python, so that
// it can be compiled for another processor and run under an emulator (tests/test_neon.py).
//
// Renders a scene of pseudo-random Gaussians with every instruction set and with one and
// three threads, and fits some to a picture; prints one line each and exits with 1 where they
// disagree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "dispatch.h"
#include "fit.h"
#include "image_model.h"
#include "render.h"
#include "scene.h"

using namespace belvedere;

namespace {

constexpr int kWidth = 203, kHeight = 131;
constexpr std::size_t kPixels = static_cast<std::size_t>(kWidth) * kHeight;
// Kernels with and without fused multiply-add round differently; a Gaussian whose alpha lies
// on the cut may then appear in one picture only, and weighs 1/255 there.
constexpr float kTolerance = 2.5f / 255.0f;
constexpr double kMeanTolerance = 2e-5;
constexpr double kMomentTolerance = 1e-3;  // such a Gaussian's share in all derivatives

void fill_scene(PackedScene& scene) {
  constexpr std::size_t kCount = 6000;
  std::mt19937 random(7);  // the engine is portable, the library's distributions are not
  const auto uniform = [&] { return static_cast<float>(random() % 100000) / 100000.0f; };
  std::vector<float> means, quats, scales, opacities, sh;
  for (std::size_t i = 0; i < kCount; ++i) {
    means.insert(means.end(), {4 * uniform() - 2, 3 * uniform() - 1.5f, 2 + 4 * uniform()});
    float q[4], norm = 0;
    for (float& v : q) v = uniform() - 0.5f, norm += v * v;
    for (const float v : q) quats.push_back(v / std::sqrt(norm));
    for (int k = 0; k < 3; ++k) scales.push_back(std::exp(-5.0f + 2.5f * uniform()));
    opacities.push_back(0.1f + 0.89f * uniform());
    for (int k = 0; k < 16 * 3; ++k) sh.push_back((uniform() - 0.5f) * (k < 3 ? 2.0f : 0.3f));
  }
  pack_scene({kCount, 3, means.data(), quats.data(), scales.data(), opacities.data(), sh.data()},
             1, scene);
}

ImageTargets targets_in(std::vector<float>& images, std::vector<std::int32_t>& count) {
  float* const first = images.data();
  return {first, first + 3 * kPixels, first + 4 * kPixels, first + 5 * kPixels, count.data()};
}

CameraParams camera_of(CameraModel model) {
  CameraParams camera{};
  camera.rotation[0] = camera.rotation[4] = camera.rotation[8] = 1;
  camera.fx = camera.fy = model == CameraModel::kOrtho ? 40 : 150;
  camera.cx = 0.5 * kWidth, camera.cy = 0.5 * kHeight;
  camera.near = 0.1, camera.far = 1e9;
  camera.width = kWidth, camera.height = kHeight;
  camera.model = model;
  return camera;
}

// Colour, alpha, depth and median depth; of two eyes where the model allows it.
std::vector<float> draw(const Kernels& kernels, const DrawList& scene, CameraModel model,
                        int threads) {
  const CameraParams camera = camera_of(model);
  std::vector<float> out(kPixels * 6);
  std::vector<std::int32_t> count(kPixels);
  std::vector<float> other(out.size());
  std::vector<std::int32_t> other_count(kPixels);
  const ImageTargets targets[2] = {targets_in(out, count), targets_in(other, other_count)};
  CameraParams beside = camera;
  beside.translation[0] -= 0.06, beside.position[0] += 0.06;
  const SecondEye second{&beside, 0.25f, 0.01f};
  const RenderOptions options{3,       kDilationPx2,          {0.1f, 0.2f, 0.3f}, kTransmittanceStop,
                              threads, std::size_t{1} << 30,  0,
                              (kHeight + kTileSize - 1) / kTileSize};
  Workspace workspace;
  RenderStats stats;
  const CancelFlag never{false};
  const bool two = model == CameraModel::kPinhole;
  render(kernels, scene, camera, two ? &second : nullptr, options, never, targets, workspace, stats);
  if (two) out.insert(out.end(), other.begin(), other.end());
  return out;
}

// The picture of one step of a fit, then what Adam remembers of it, which is its derivatives.
struct Fit {
  std::vector<float> image, moments;
};

Fit fit(const Kernels& kernels) {
  constexpr std::size_t kCount = 300;
  constexpr int kBases = 16, kWidth = kFitHarmonics + 3 * kBases;
  std::mt19937 random(9);
  const auto uniform = [&] { return static_cast<float>(random() % 100000) / 100000.0f; };
  std::vector<float> rows, seen(kFitSeen * kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    rows.insert(rows.end(), {4 * uniform() - 2, 3 * uniform() - 1.5f, 2 + 4 * uniform()});
    for (int k = kFitQuat; k < kFitScale; ++k) rows.push_back(uniform() - 0.5f);
    for (int k = kFitScale; k < kFitOpacity; ++k) rows.push_back(-4 + 2.5f * uniform());
    rows.push_back(4 * uniform() - 2);
    for (int k = kFitHarmonics; k < kWidth; ++k) rows.push_back(0.6f * (uniform() - 0.5f));
  }
  std::vector<std::uint8_t> wanted(4 * kPixels);
  for (std::uint8_t& value : wanted) value = static_cast<std::uint8_t>(random() % 256);
  Fit out{std::vector<float>(4 * kPixels), std::vector<float>((2 * kWidth + 1) * kCount)};
  const FitModel model{kCount, kBases, 3, rows.data(), out.moments.data(), seen.data()};
  const FitTarget target{wanted.data(), {0.1f, 0.2f, 0.3f}, 0.7f, 0.5f};
  const FitRates rates{0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.01f, 0.9f, 0.999f};
  FitWorkspace workspace;
  fit_picture(*kernels.fit, model, camera_of(CameraModel::kPinhole), target, &rates, 2,
              out.image.data(), workspace);
  return out;
}

double norm_of(const std::vector<float>& values, const std::vector<float>& other) {
  double square = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = static_cast<double>(values[i]) - other[i];
    square += difference * difference;
  }
  return std::sqrt(square);
}

// Whether kernels fit alike; derivatives by what is small next to them all.
bool fits_alike(const Kernels& kernels, const Fit& expected) {
  const Fit found = fit(kernels);
  float worst = 0;
  for (std::size_t i = 0; i < found.image.size(); ++i) {
    worst = std::max(worst, std::fabs(found.image[i] - expected.image[i]));
  }
  const double whole = norm_of(expected.moments, std::vector<float>(expected.moments.size()));
  const double off = norm_of(found.moments, expected.moments);
  std::printf("%s fit: worst %.2e, moments %.2e of %.2e\n", kernels.name,
              static_cast<double>(worst), off, whole);
  return worst <= kTolerance && off <= kMomentTolerance * whole && whole > 0;
}

}  // namespace

int main() {
  PackedScene scene;
  fill_scene(scene);
  DrawList list;
  list.append(scene);
  const Kernels& reference = *available_kernels().back();
  bool agree = true;
  for (const CameraModel model :
       {CameraModel::kPinhole, CameraModel::kOrtho, CameraModel::kFisheye}) {
    const std::vector<float> expected = draw(reference, list, model, 1);
    const float most = *std::max_element(&expected[3 * kPixels], &expected[4 * kPixels]);
    if (most < 0.9f) {  // an empty picture would agree with any other
      std::printf("nothing was drawn\n");
      return 1;
    }
    for (const Kernels* kernels : available_kernels()) {
      const std::vector<float> image = draw(*kernels, list, model, 1);
      float worst = 0;
      double mean = 0;
      for (std::size_t i = 0; i < image.size(); ++i) {
        if (i / kPixels % 6 >= 4) continue;  // depths
        const float error = std::fabs(image[i] - expected[i]);
        worst = std::max(worst, error);
        mean += error / static_cast<double>(image.size());
      }
      const bool same = image == draw(*kernels, list, model, 3);
      const bool close = worst <= kTolerance && mean <= kMeanTolerance;
      std::printf("%s model %d: worst %.2e mean %.2e, threads %s\n", kernels->name,
                  static_cast<int>(model), static_cast<double>(worst), mean,
                  same ? "agree" : "DISAGREE");
      agree = agree && same && close;
    }
  }
  const Fit fitted = fit(reference);
  for (const Kernels* kernels : available_kernels()) {
    agree = fits_alike(*kernels, fitted) && agree;
  }
  return agree ? 0 : 1;
}
