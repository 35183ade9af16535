#include "compact.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

namespace belvedere::store {
namespace {

constexpr std::size_t kBlock = 512;  // Gaussians unpacked at a time: their columns stay in L1

// A chunk holds Gaussians of similar size: nine of ten are at least as large as this one.
constexpr double kSmallFraction = 0.1;
constexpr std::uint32_t kMostMeanSteps = (1u << 24) - 1;  // float32 knows no more
constexpr std::uint32_t kMostTableSteps = (1u << 16) - 1;
constexpr double kLargestColor = 1 << 20;  // in steps
constexpr double kLargestSh = (1 << 15) - 1;

// Nothing that faint is drawn: alpha below 1/255 is cut.
constexpr float kFaintestOpacity = 1.0f / 1024;

constexpr double kFinestQuatStep = 1.0 / (1 << 14);

struct Range {
  float lo = std::numeric_limits<float>::infinity();
  float hi = -std::numeric_limits<float>::infinity();
  void add(float v) {
    lo = std::min(lo, v);
    hi = std::max(hi, v);
  }
};

std::uint32_t step_count(double extent, double step, std::uint32_t most) {
  if (!(extent > 0)) return 0;
  return static_cast<std::uint32_t>(std::clamp(std::ceil(extent / step), 1.0, double(most)));
}

// ---- Values in even steps of their logarithm, both ends exact ------------------------------

struct LogRange {
  float lo, hi;
  std::uint32_t steps;
};

LogRange log_range(Range range, double step) {
  const double extent = std::log(double(range.hi)) - std::log(double(range.lo));
  return {range.lo, range.hi, step_count(extent, step, kMostTableSteps)};
}

void put(ParameterWriter& out, const LogRange& range) {
  out.put(range.lo);
  out.put(range.hi);
  out.put(range.steps);
}

class LogQuantizer {
 public:
  explicit LogQuantizer(const LogRange& range) : start_(std::log(double(range.lo))) {
    const double extent = std::log(double(range.hi)) - start_;
    per_nat_ = extent > 0 ? range.steps / extent : 0;
  }
  std::uint32_t operator()(float v) const {
    return static_cast<std::uint32_t>(std::lrint((std::log(double(v)) - start_) * per_nat_));
  }

 private:
  double start_, per_nat_;
};

// The value of each step.
std::vector<float> log_table(ParameterReader& in) {
  const auto lo = in.get<float>(), hi = in.get<float>();
  const auto steps = in.get<std::uint32_t>();
  require(std::isfinite(lo) && std::isfinite(hi) && lo > 0 && lo <= hi, "a range makes no sense");
  require(steps <= kMostTableSteps, "a range has too many steps");
  const double start = std::log(double(lo));
  const double step = steps ? (std::log(double(hi)) - start) / steps : 0;
  std::vector<float> table(steps + 1);
  for (std::uint32_t i = 0; i <= steps; ++i) {
    table[i] = std::clamp(static_cast<float>(std::exp(start + i * step)), lo, hi);
  }
  table.back() = hi;
  table.front() = lo;
  return table;
}

// ---- Rotations -----------------------------------------------------------------------------

using Quat = std::array<double, 4>;  // wxyz

// The rotation followed (in its own frame) by a quarter turn about `axis`: the other two axes
// change places, one of them reversed, which no Gaussian notices.
Quat quarter_turned(const Quat& q, int axis) {
  constexpr double h = 0.5 * std::numbers::sqrt2;
  const int a = 1 + axis, b = 1 + (axis + 1) % 3, c = 1 + (axis + 2) % 3;
  Quat out{};
  out[0] = h * (q[0] - q[a]);
  out[a] = h * (q[a] + q[0]);
  out[b] = h * (q[b] + q[c]);
  out[c] = h * (q[c] - q[b]);
  return out;
}

// Of the four rotations that differ by half turns about the Gaussian's own axes, and of the
// two signs of each, the one whose w is largest: then x, y and z are all within 1/sqrt(2).
Quat with_largest_w(const Quat& q) {
  int largest = 0;
  for (int i = 1; i < 4; ++i) {
    if (std::abs(q[i]) > std::abs(q[largest])) largest = i;
  }
  Quat out = q;
  if (largest == 1) out = {-q[1], q[0], q[3], -q[2]};
  if (largest == 2) out = {-q[2], -q[3], q[0], q[1]};
  if (largest == 3) out = {-q[3], q[2], -q[1], q[0]};
  if (out[0] < 0) {
    for (double& v : out) v = -v;
  }
  return out;
}

struct Shape {
  std::array<float, 3> scales;  // largest first
  std::array<std::int32_t, 3> xyz;
};

Shape canonical_shape(const float* quat, const float* scales, double quat_step) {
  Shape shape{{scales[0], scales[1], scales[2]}, {}};
  Quat q{quat[0], quat[1], quat[2], quat[3]};
  const double length = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  for (double& v : q) v /= length;
  constexpr std::pair<int, int> kExchanges[] = {{0, 1}, {1, 2}, {0, 1}};
  for (const auto& [i, j] : kExchanges) {
    if (shape.scales[i] < shape.scales[j]) {
      std::swap(shape.scales[i], shape.scales[j]);
      q = quarter_turned(q, 3 - i - j);
    }
  }
  q = with_largest_w(q);
  for (int i = 0; i < 3; ++i) {
    shape.xyz[i] = static_cast<std::int32_t>(std::lrint(q[i + 1] / quat_step));
  }
  return shape;
}

// ---- Packing -------------------------------------------------------------------------------

struct MeanRange {
  float lo, hi;
  std::uint32_t steps;
};

double mean_step(const ConstGaussians& g, double fraction) {
  std::vector<float> sizes(g.count);
  for (std::size_t i = 0; i < g.count; ++i) {
    sizes[i] = std::max({g.scales[3 * i], g.scales[3 * i + 1], g.scales[3 * i + 2]});
  }
  const auto small = static_cast<std::ptrdiff_t>(kSmallFraction * double(g.count - 1));
  std::nth_element(sizes.begin(), sizes.begin() + small, sizes.end());
  return fraction * sizes[static_cast<std::size_t>(small)];
}

void pack_means(const ConstGaussians& g, double fraction, ParameterWriter& parameters,
                ColumnWriter& columns, std::vector<std::uint32_t>& column) {
  const double step = mean_step(g, fraction);
  for (int axis = 0; axis < 3; ++axis) {
    Range range;
    for (std::size_t i = 0; i < g.count; ++i) range.add(g.means[3 * i + axis]);
    const double extent = double(range.hi) - double(range.lo);
    const std::uint32_t steps = step_count(extent, step, kMostMeanSteps);
    const double per_unit = steps ? steps / extent : 0;
    std::int32_t previous = 0;
    for (std::size_t i = 0; i < g.count; ++i) {
      const double offset = double(g.means[3 * i + axis]) - double(range.lo);
      const auto q = static_cast<std::int32_t>(std::lrint(offset * per_unit));
      column[i] = zigzag(q - previous);
      previous = q;
    }
    parameters.put(range.lo);
    parameters.put(range.hi);
    parameters.put(steps);
    columns.put(column.data());
  }
}

void pack_shapes(const ConstGaussians& g, const CompactSteps& steps, ParameterWriter& parameters,
                 ColumnWriter& columns, std::vector<std::uint32_t>& column) {
  const auto quat_step = static_cast<float>(std::max(steps.quat, kFinestQuatStep));
  std::vector<Shape> shapes(g.count);
  Range ranges[3];
  for (std::size_t i = 0; i < g.count; ++i) {
    shapes[i] = canonical_shape(g.quats + 4 * i, g.scales + 3 * i, quat_step);
    for (int axis = 0; axis < 3; ++axis) ranges[axis].add(shapes[i].scales[axis]);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const LogRange range = log_range(ranges[axis], steps.log_scale);
    const LogQuantizer quantize(range);
    for (std::size_t i = 0; i < g.count; ++i) column[i] = quantize(shapes[i].scales[axis]);
    put(parameters, range);
    columns.put(column.data());
  }
  for (int axis = 0; axis < 3; ++axis) {
    for (std::size_t i = 0; i < g.count; ++i) {
      column[i] = zigzag(shapes[i].xyz[axis]);
    }
    columns.put(column.data());
  }
  parameters.put(quat_step);
}

void pack_opacities(const ConstGaussians& g, double step, ParameterWriter& parameters,
                    ColumnWriter& columns, std::vector<std::uint32_t>& column) {
  Range range;
  for (std::size_t i = 0; i < g.count; ++i) range.add(std::max(g.opacities[i], kFaintestOpacity));
  const LogRange logs = log_range(range, step);
  const LogQuantizer quantize(logs);
  for (std::size_t i = 0; i < g.count; ++i) {
    column[i] = quantize(std::max(g.opacities[i], kFaintestOpacity));
  }
  put(parameters, logs);
  columns.put(column.data());
}

// The step of coefficients from `first` to the last base: larger where one is enormous.
float coefficient_step(const ConstGaussians& g, std::size_t first, std::size_t end, double finest,
                       double most_steps) {
  float largest = 0;
  for (std::size_t i = 0; i < g.count; ++i) {
    for (std::size_t v = 3 * first; v < 3 * end; ++v) {
      largest = std::max(largest, std::abs(g.sh[3 * g.bases * i + v]));
    }
  }
  return static_cast<float>(std::max(finest, largest / (most_steps - 1)));
}

struct Rgb {
  std::int32_t g, r_g, b_g;  // green, and what red and blue have more: both near 0 mostly
};

Rgb quantized_rgb(const float* rgb, double step) {
  const auto r = static_cast<std::int32_t>(std::lrint(rgb[0] / step));
  const auto g = static_cast<std::int32_t>(std::lrint(rgb[1] / step));
  const auto b = static_cast<std::int32_t>(std::lrint(rgb[2] / step));
  return {g, r - g, b - g};
}

void pack_colors(const ConstGaussians& g, double finest, ParameterWriter& parameters,
                 ColumnWriter& columns, std::vector<std::uint32_t>& column) {
  const float step = coefficient_step(g, 0, 1, finest, kLargestColor);
  std::vector<Rgb> colors(g.count);
  for (std::size_t i = 0; i < g.count; ++i) colors[i] = quantized_rgb(g.sh + 3 * g.bases * i, step);
  parameters.put(step);
  for (const auto channel : {&Rgb::g, &Rgb::r_g, &Rgb::b_g}) {
    std::int32_t lowest = std::numeric_limits<std::int32_t>::max();
    for (const Rgb& c : colors) lowest = std::min(lowest, c.*channel);
    for (std::size_t i = 0; i < g.count; ++i) {
      column[i] = static_cast<std::uint32_t>(colors[i].*channel - lowest);
    }
    parameters.put(lowest);
    columns.put(column.data());
  }
}

// ---- Unpacking -----------------------------------------------------------------------------

// Sums wrap modulo 2^32, so that no input is undefined behaviour.
float whole(std::uint32_t v) { return float(static_cast<std::int32_t>(v)); }

float positive_step(ParameterReader& in) {
  const auto step = in.get<float>();
  // So small that no product with a 32-bit integer overflows.
  require(step > 0 && step < 1e28f, "a step makes no sense");
  return step;
}

struct MeanDecoder {
  double lo, step;
  float hi;
  std::uint32_t steps, previous = 0;

  explicit MeanDecoder(ParameterReader& in) {
    const auto low = in.get<float>();
    hi = in.get<float>();
    steps = in.get<std::uint32_t>();
    require(std::isfinite(low) && std::isfinite(hi) && low <= hi && steps <= kMostMeanSteps,
            "a range makes no sense");
    lo = low;
    step = steps ? (double(hi) - lo) / steps : 0;
  }
};

// Returns whether a value was out of range.
bool unpack_means(MeanDecoder& decoder, const std::uint32_t* column, std::size_t size, float* out) {
  std::uint32_t q = decoder.previous, largest = 0;
  for (std::size_t i = 0; i < size; ++i) {
    q += unzigzag(column[i]);
    largest = std::max(largest, q);
    // An out-of-range q is reported after the block; as an int32 it is harmless here.
    const double value = decoder.lo + double(static_cast<std::int32_t>(q)) * decoder.step;
    out[3 * i] = std::min(static_cast<float>(value), decoder.hi);
  }
  decoder.previous = q;
  return largest > decoder.steps;
}

bool unpack_table(const std::vector<float>& table, const std::uint32_t* column, std::size_t size,
                  std::size_t stride, float* out) {
  const auto last = static_cast<std::uint32_t>(table.size() - 1);
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < size; ++i) {
    largest = std::max(largest, column[i]);
    out[stride * i] = table[std::min(column[i], last)];
  }
  return largest > last;
}

bool unpack_quats(float step, const std::uint32_t* x, const std::uint32_t* y,
                  const std::uint32_t* z, std::size_t size, float* out) {
  float least = 1;
  for (std::size_t i = 0; i < size; ++i) {
    const float qx = whole(unzigzag(x[i])) * step;
    const float qy = whole(unzigzag(y[i])) * step;
    const float qz = whole(unzigzag(z[i])) * step;
    const float rest = 1.0f - (qx * qx + qy * qy + qz * qz);
    least = std::min(least, rest);
    out[4 * i] = std::sqrt(std::max(rest, 0.0f));
    out[4 * i + 1] = qx;
    out[4 * i + 2] = qy;
    out[4 * i + 3] = qz;
  }
  return least < 0;
}

struct ColorDecoder {
  float step;
  std::uint32_t lowest[3];

  explicit ColorDecoder(ParameterReader& in) {
    step = positive_step(in);
    for (std::uint32_t& v : lowest) v = in.get<std::uint32_t>();
  }
};

void unpack_colors(const ColorDecoder& decoder, const std::uint32_t* g, const std::uint32_t* r_g,
                   const std::uint32_t* b_g, std::size_t size, std::size_t stride, float* out) {
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint32_t green = g[i] + decoder.lowest[0];
    out[stride * i] = whole(green + r_g[i] + decoder.lowest[1]) * decoder.step;
    out[stride * i + 1] = whole(green) * decoder.step;
    out[stride * i + 2] = whole(green + b_g[i] + decoder.lowest[2]) * decoder.step;
  }
}

}  // namespace

RawStream pack_compact_geometry(const ConstGaussians& g, const CompactSteps& steps) {
  ParameterWriter parameters;
  ColumnWriter columns(g.count, kGeometryColumns, 2);
  std::vector<std::uint32_t> column(g.count);
  pack_means(g, steps.mean, parameters, columns, column);
  pack_shapes(g, steps, parameters, columns, column);
  pack_opacities(g, steps.log_opacity, parameters, columns, column);
  pack_colors(g, steps.color, parameters, columns, column);
  return {parameters.bytes(), columns.widths(), columns.planes()};
}

RawStream pack_compact_sh(const ConstGaussians& g, const CompactSteps& steps) {
  ParameterWriter parameters;
  ColumnWriter columns(g.count, 3 * (g.bases - 1), 1);
  std::vector<std::uint32_t> column(g.count);
  std::vector<Rgb> values(g.count);
  const float step = coefficient_step(g, 1, g.bases, steps.sh, kLargestSh);
  parameters.put(step);
  for (std::size_t base = 1; base < g.bases; ++base) {
    for (std::size_t i = 0; i < g.count; ++i) {
      values[i] = quantized_rgb(g.sh + 3 * (g.bases * i + base), step);
    }
    for (const auto channel : {&Rgb::g, &Rgb::r_g, &Rgb::b_g}) {
      for (std::size_t i = 0; i < g.count; ++i) column[i] = zigzag(values[i].*channel);
      columns.put(column.data());
    }
  }
  return {parameters.bytes(), columns.widths(), columns.planes()};
}

void unpack_compact_geometry(std::string_view parameters, const ColumnReader& columns,
                             const MutableGaussians& out) {
  require(columns.columns() == kGeometryColumns, "it has the wrong number of columns");
  ParameterReader in(parameters);
  MeanDecoder means[] = {MeanDecoder(in), MeanDecoder(in), MeanDecoder(in)};
  const std::vector<float> scales[] = {log_table(in), log_table(in), log_table(in)};
  const float quat_step = positive_step(in);
  const std::vector<float> opacities = log_table(in);
  const ColorDecoder colors(in);
  in.require_end();

  std::uint32_t block[3][kBlock];
  bool bad = false;
  for (std::size_t start = 0; start < out.count; start += kBlock) {
    const std::size_t size = std::min(kBlock, out.count - start);
    for (std::size_t axis = 0; axis < 3; ++axis) {
      columns.get(axis, start, size, block[0]);
      bad |= unpack_means(means[axis], block[0], size, out.means + 3 * start + axis);
      columns.get(3 + axis, start, size, block[0]);
      bad |= unpack_table(scales[axis], block[0], size, 3, out.scales + 3 * start + axis);
    }
    for (std::size_t axis = 0; axis < 3; ++axis) columns.get(6 + axis, start, size, block[axis]);
    bad |= unpack_quats(quat_step, block[0], block[1], block[2], size, out.quats + 4 * start);
    columns.get(9, start, size, block[0]);
    bad |= unpack_table(opacities, block[0], size, 1, out.opacities + start);
    for (std::size_t c = 0; c < 3; ++c) columns.get(10 + c, start, size, block[c]);
    unpack_colors(colors, block[0], block[1], block[2], size, 3 * out.bases,
                  out.sh + 3 * out.bases * start);
  }
  require(!bad, "a value is out of range");
}

void unpack_compact_sh(std::string_view parameters, const ColumnReader& columns,
                       const MutableGaussians& out) {
  require(columns.columns() == 3 * (out.bases - 1), "it has the wrong number of columns");
  ParameterReader in(parameters);
  const float step = positive_step(in);
  in.require_end();

  constexpr std::size_t kRows = 64;  // 64 Gaussians of 16 bases are 12 KiB of output
  std::uint32_t g[kRows], r_g[kRows], b_g[kRows];
  for (std::size_t start = 0; start < out.count; start += kRows) {
    const std::size_t size = std::min(kRows, out.count - start);
    for (std::size_t base = 1; base < out.bases; ++base) {
      const std::size_t column = 3 * (base - 1);
      columns.get(column, start, size, g);
      columns.get(column + 1, start, size, r_g);
      columns.get(column + 2, start, size, b_g);
      float* to = out.sh + 3 * (out.bases * start + base);
      for (std::size_t i = 0; i < size; ++i, to += 3 * out.bases) {
        const std::uint32_t green = unzigzag(g[i]);
        to[0] = whole(green + unzigzag(r_g[i])) * step;
        to[1] = whole(green) * step;
        to[2] = whole(green + unzigzag(b_g[i])) * step;
      }
    }
  }
}

}  // namespace belvedere::store
