// What all processors do alike. Needs EDGECOMP_SIMD, the attribute of functions for one, and EDGECOMP_VECTOR_BYTES, the width
// of its registers.
#pragma once

#include "dot.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#elif EDGECOMP_VECTOR_BYTES == 32
#include <immintrin.h>
#endif

namespace edgecomp {
namespace {

constexpr int kLanes = EDGECOMP_VECTOR_BYTES / 4;
typedef float Floats __attribute__((vector_size(EDGECOMP_VECTOR_BYTES)));
typedef int32_t Integers __attribute__((vector_size(EDGECOMP_VECTOR_BYTES)));

// a > b ? a : b and a < b ? a : b in one instruction where compilers need to be told; of what is no number, b.
#if defined(__aarch64__)
EDGECOMP_SIMD inline Floats larger(Floats a, Floats b) { return Floats(vmaxnmq_f32(float32x4_t(a), float32x4_t(b))); }
EDGECOMP_SIMD inline Floats smaller(Floats a, Floats b) { return Floats(vminnmq_f32(float32x4_t(a), float32x4_t(b))); }
#elif EDGECOMP_VECTOR_BYTES == 32
EDGECOMP_SIMD inline Floats larger(Floats a, Floats b) { return Floats(_mm256_max_ps(__m256(a), __m256(b))); }
EDGECOMP_SIMD inline Floats smaller(Floats a, Floats b) { return Floats(_mm256_min_ps(__m256(a), __m256(b))); }
#else
EDGECOMP_SIMD inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
EDGECOMP_SIMD inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
#endif

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

// kLanes inputs as their form has them; the same as `rounded` in rounding.h.
template <InputForm form>
EDGECOMP_SIMD inline Integers round_lanes(const float *x, const InputRange &range) {
  Floats value;
  std::memcpy(&value, x, sizeof value);
  const Floats least = Floats{} + range.least(), most = Floats{} + range.most();
  value *= range.inverse;
  value = smaller(larger(value, least), most);
  value += 12582912.0f;
  return Integers(value) - (0x4b400000 - (form == InputForm::kCentered ? 0 : range.zero + kOffset<form>));
}

template <InputForm form>
EDGECOMP_SIMD void quantize_rows(const InputBlock &b) {
  typedef typename Stored<form>::Type Type;
  typedef Type Narrow __attribute__((vector_size(kLanes * sizeof(Type))));
  for (int p = 0; p < b.positions; ++p) {
    const float *x = b.x + p * b.position_stride;
    Type *to = static_cast<Type *>(b.to) + size_t(p) * b.padded;
    int c = 0;
    for (; c + kLanes <= b.columns; c += kLanes) {
      const Narrow values = __builtin_convertvector(round_lanes<form>(x + c, b.range), Narrow);
      std::memcpy(to + c, &values, sizeof values);
    }
    if (c == b.padded) continue;
    float rest[kLanes] = {};
    for (int i = c; i < b.columns; ++i) rest[i - c] = x[i];
    const Integers values = round_lanes<form>(rest, b.range);
    for (int i = c; i < b.padded; ++i) to[i] = i < b.columns ? Type(values[i - c]) : Type(0);
  }
}

// A quad of columns of kLanes positions, put together in registers.
template <InputForm form>
EDGECOMP_SIMD inline void store_quads(const Integers *v, int count, int padded, void *to) {
  typedef typename Stored<form>::Type Type;
  Type *out = static_cast<Type *>(to);
  if (sizeof(Type) == 1) {
    const Integers quads = (v[0] & 255) | (v[1] & 255) << 8 | (v[2] & 255) << 16 | v[3] << 24;
    alignas(64) int32_t words[kLanes];
    std::memcpy(words, &quads, sizeof quads);
    for (int i = 0; i < count; ++i, out += padded) std::memcpy(out, words + i, 4);
  } else {
    const Integers halves[2] = {(v[0] & 65535) | v[1] << 16, (v[2] & 65535) | v[3] << 16};
    alignas(64) int32_t words[2][kLanes];
    std::memcpy(words, halves, sizeof halves);
    for (int i = 0; i < count; ++i, out += padded) {
      std::memcpy(out, words[0] + i, 4);
      std::memcpy(out + 2, words[1] + i, 4);
    }
  }
}

// Of channels first.
template <InputForm form>
EDGECOMP_SIMD void quantize_planes(const InputBlock &b) {
  typedef typename Stored<form>::Type Type;
  for (int p = 0; p < b.positions; p += kLanes) {
    const int count = std::min(kLanes, b.positions - p);
    Type *to = static_cast<Type *>(b.to) + size_t(p) * b.padded;
    for (int c = 0; c < b.padded; c += 4, to += 4) {
      const float *x = b.x + c * b.column_stride + p;
      Integers values[4] = {};
      for (int j = 0; j < 4; ++j, x += b.column_stride) {
        if (c + j >= b.columns) break;
        if (count == kLanes) {
          values[j] = round_lanes<form>(x, b.range);
          continue;
        }
        float rest[kLanes] = {};
        std::copy_n(x, count, rest);
        values[j] = round_lanes<form>(rest, b.range);
      }
      if (count == kLanes) store_quads<form>(values, kLanes, b.padded, to);
      else store_quads<form>(values, count, b.padded, to);
    }
  }
}

template <InputForm form>
EDGECOMP_SIMD void quantize(const InputBlock &b) {
  (b.column_stride == 1 ? quantize_rows<form> : quantize_planes<form>)(b);
}

EDGECOMP_SIMD void range_of(const float *x, size_t count, float *low, float *high) {
  constexpr int kTogether = 4;  // registers of each
  Floats least[kTogether] = {}, most[kTogether] = {};
  size_t i = 0;
  for (; i + kTogether * kLanes <= count; i += kTogether * kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < kTogether; ++j) {
      Floats value;
      std::memcpy(&value, x + i + j * kLanes, sizeof value);
      least[j] = smaller(value, least[j]);
      most[j] = larger(value, most[j]);
    }
  *low = *high = 0;
  for (; i < count; ++i) *low = x[i] < *low ? x[i] : *low, *high = x[i] > *high ? x[i] : *high;
  for (int j = 0; j < kTogether; ++j)
    for (int l = 0; l < kLanes; ++l) *low = std::min(*low, least[j][l]), *high = std::max(*high, most[j][l]);
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
