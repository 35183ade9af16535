// The constants of the image model (rendering/base.py), shared by every kernel.
#pragma once

namespace belvedere {

constexpr float kDilationPx2 = 0.3f;
constexpr float kAlphaMax = 0.999f;
constexpr float kTransmittanceStop = 1e-4f;
constexpr float kFisheyeMaxTheta = 2.5307274f;  // 145 degrees, Fisheye-GS

constexpr float kLog2AlphaCut = -7.99435344f;  // log2(1 / 255)
constexpr float kLog2E = 1.44269504f;
// Largest extent of any Gaussian in standard deviations: sqrt(2 ln 255).
constexpr float kMaxSigmas = 3.32898903f;

}  // namespace belvedere
