// What compilers vectorize by themselves, once for every processor. Needs EDGECOMP_SIMD, the attribute of its functions.
#pragma once

#include "dot.h"

namespace edgecomp {
namespace {

constexpr int kLanes = 16;  // of loops that become SIMD code

template <InputForm form>
struct Stored {
  typedef int8_t Type;
};
template <>
struct Stored<InputForm::kCentered> {
  typedef int16_t Type;
};

template <InputForm form>
constexpr int kOffset = form == InputForm::kSigned ? -128 : 0;

// kLanes inputs, less what their form takes off.
template <InputForm form>
EDGECOMP_SIMD inline void round_lanes(const float *x, const InputRange &range, int32_t *to) {
  const float inverse = range.inverse, least = range.least(), most = range.most();
  const int32_t add = form == InputForm::kCentered ? 0 : range.zero + kOffset<form>;
  for (int i = 0; i < kLanes; ++i) to[i] = rounded(x[i] * inverse, least, most) + add;
}

template <InputForm form>
EDGECOMP_SIMD void quantize_rows(const InputBlock &b) {
  typedef typename Stored<form>::Type Type;
  for (int p = 0; p < b.positions; ++p) {
    const float *x = b.x + p * b.position_stride;
    Type *to = static_cast<Type *>(b.to) + size_t(p) * b.padded;
    int32_t values[kLanes];
    int c = 0;
    for (; c + kLanes <= b.columns; c += kLanes) {
      round_lanes<form>(x + c, b.range, values);
      for (int i = 0; i < kLanes; ++i) to[c + i] = Type(values[i]);
    }
    if (c < b.columns) {
      float rest[kLanes] = {};
      for (int i = c; i < b.columns; ++i) rest[i - c] = x[i];
      round_lanes<form>(rest, b.range, values);
    }
    for (int i = c; i < b.padded; ++i) to[i] = i < b.columns ? Type(values[i - c]) : Type(0);
  }
}

// Of channels first: a quad of channels of kLanes positions at a time, put together in registers.
template <InputForm form>
EDGECOMP_SIMD void quantize_planes(const InputBlock &b) {
  typedef typename Stored<form>::Type Type;
  constexpr int bits = 8 * sizeof(Type);
  Type *const out = static_cast<Type *>(b.to);
  for (int c = 0; c < b.padded; c += 4) {
    const int there = std::clamp(b.columns - c, 0, 4);
    for (int p = 0; p < b.positions; p += kLanes) {
      const int count = std::min(kLanes, b.positions - p);
      int32_t values[4][kLanes] = {};
      for (int j = 0; j < there; ++j) {
        const float *x = b.x + (c + j) * b.column_stride + p;
        float rest[kLanes] = {};
        if (count < kLanes) std::copy_n(x, count, rest);
        round_lanes<form>(count < kLanes ? rest : x, b.range, values[j]);
      }
      constexpr uint32_t mask = bits == 8 ? 0xffu : 0xffffu;
      uint32_t words[2][kLanes];
      for (int i = 0; i < kLanes; ++i)
        if (bits == 8)
          words[0][i] = (uint32_t(values[0][i]) & mask) | (uint32_t(values[1][i]) & mask) << 8 |
                        (uint32_t(values[2][i]) & mask) << 16 | uint32_t(values[3][i]) << 24;
        else
          words[0][i] = (uint32_t(values[0][i]) & mask) | uint32_t(values[1][i]) << 16,
          words[1][i] = (uint32_t(values[2][i]) & mask) | uint32_t(values[3][i]) << 16;
      Type *to = out + size_t(p) * b.padded + c;
      for (int i = 0; i < count; ++i, to += b.padded) {
        std::memcpy(to, &words[0][i], 4);
        if (bits == 16) std::memcpy(to + 2, &words[1][i], 4);
      }
    }
  }
}

template <InputForm form>
EDGECOMP_SIMD void quantize(const InputBlock &b) {
  (b.column_stride == 1 ? quantize_rows<form> : quantize_planes<form>)(b);
}

EDGECOMP_SIMD void range_of(const float *x, size_t count, float *low, float *high) {
  float least[kLanes] = {}, most[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int j = 0; j < kLanes; ++j) {
      const float value = x[i + j];
      least[j] = value < least[j] ? value : least[j];
      most[j] = value > most[j] ? value : most[j];
    }
  for (; i < count; ++i) least[0] = x[i] < least[0] ? x[i] : least[0], most[0] = x[i] > most[0] ? x[i] : most[0];
  for (int j = 1; j < kLanes; ++j) least[0] = std::min(least[0], least[j]), most[0] = std::max(most[0], most[j]);
  *low = least[0], *high = most[0];
}

template <InputForm form, int rows, bool relu>
EDGECOMP_SIMD void finish_rows(const DotFinish &f) {
  for (int p = 0; p < f.positions; ++p) {
    const InputRange &range = f.ranges[size_t(p) * f.range_step];
    const int32_t correction = form == InputForm::kCentered ? 0 : range.zero + kOffset<form>;
    const int32_t *sums = f.sums + size_t(p) * rows;
    float *y = f.y + size_t(p) * rows;
    for (int r = 0; r < rows; ++r) {
      const int32_t sum = sums[r] - (form == InputForm::kCentered ? 0 : correction * f.row_sums[r]);
      const float value = float(sum) * (f.factor[r] * range.scale) + f.bias[r];
      y[r] = relu ? (value > 0.0f ? value : 0.0f) : value;
    }
  }
}

template <InputForm form, int rows>
EDGECOMP_SIMD void finish(const DotFinish &f) {
  f.relu ? finish_rows<form, rows, true>(f) : finish_rows<form, rows, false>(f);
}

template <int rows>
EDGECOMP_SIMD inline void look_up_plainly(const int8_t *planes, int elements, const uint8_t *codes, int8_t *columns) {
  for (int e = 0; e < elements; ++e)
    for (int r = 0; r < rows; ++r) columns[e * rows + r] = planes[e * kLookedUp + codes[r]];
}

template <int rows>
EDGECOMP_SIMD void interleave_plainly(const int8_t *columns, int quads, int8_t *tile) {
  for (int q = 0; q < quads; ++q, columns += 4 * rows, tile += 4 * rows)
    for (int r = 0; r < rows; ++r)
      for (int j = 0; j < 4; ++j) tile[4 * r + j] = columns[j * rows + r];
}

// Calls multiply<count> for a count that is no constant.
template <template <int> class Multiply, int most>
EDGECOMP_SIMD inline void multiply_count(const DotRun &run) {
  if constexpr (most > 1) {
    if (run.count < most) return multiply_count<Multiply, most - 1>(run);
  }
  Multiply<most>::run(run);
}

}  // namespace
}  // namespace edgecomp
