// VNNI: a dot product of four unsigned and four signed bytes in each 32 bits of a register.
// `Vector` is such a register, `dot(sums, x, weights)` the instruction.
#pragma once

#include "dot_x86.h"

namespace edgecomp {
namespace {

constexpr int kVectorRows = EDGECOMP_VECTOR_BYTES / 4, kRows = 2 * kVectorRows;
typedef Integers Vector;

EDGECOMP_SIMD inline Vector load(const void *p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

EDGECOMP_SIMD void pack(const int8_t *tile, int quads, void *, int32_t *row_sums) {
  Vector low = load(row_sums), high = load(row_sums + kVectorRows);
  const Vector ones = Vector{} + 0x01010101;
  for (int q = 0; q < quads; ++q, tile += 4 * kRows) {
    low = dot(low, ones, load(tile));
    high = dot(high, ones, load(tile + EDGECOMP_VECTOR_BYTES));
  }
  std::memcpy(row_sums, &low, sizeof low);
  std::memcpy(row_sums + kVectorRows, &high, sizeof high);
}

template <int count>
struct Multiply {
  EDGECOMP_SIMD static void run(const DotRun &run) {
    const int8_t *weights = static_cast<const int8_t *>(run.weights);
    Vector low[count], high[count];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      low[i] = run.add ? load(run.sums + i * kRows) : Vector{};
      high[i] = run.add ? load(run.sums + i * kRows + kVectorRows) : Vector{};
    }
    for (int t = 0; t < run.tap_count; ++t) {
      const char *x[count];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) x[i] = run.inputs[i] + run.taps[t];
      for (int q = 0; q < run.quads; ++q, weights += 4 * kRows) {
        const Vector first = load(weights), second = load(weights + EDGECOMP_VECTOR_BYTES);
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) {
          int32_t quad;
          std::memcpy(&quad, x[i] + 4 * q, 4);
          const Vector all = Vector{} + quad;
          low[i] = dot(low[i], all, first);
          high[i] = dot(high[i], all, second);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      std::memcpy(run.sums + i * kRows, &low[i], sizeof low[i]);
      std::memcpy(run.sums + i * kRows + kVectorRows, &high[i], sizeof high[i]);
    }
  }
};

template <int inputs>
constexpr Dot made(const char *name, bool (*available)()) {
  return {name, available, InputForm::kUnsigned, kRows, inputs, 1, 1, quantize<InputForm::kUnsigned>, range_of, look_up<kRows>,
          look_up_quads<kRows>, interleave<kRows>, pack, multiply_count<Multiply, inputs>, finish<InputForm::kUnsigned, kRows>};
}

}  // namespace
}  // namespace edgecomp
