// Decoding on ARM64: one `tbl` looks up 16 rows, `st4` makes quads of four columns. Needs EDGECOMP_SIMD.
#pragma once

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#define EDGECOMP_VECTOR_BYTES 16
#include "dot_simd.h"

namespace edgecomp {
namespace {

constexpr int kRows = 16;

// Bits of AT_HWCAP and AT_HWCAP2, whose names older headers lack.
constexpr unsigned long kHasDotprod = 1ul << 20, kHasI8mm = 1ul << 13;

inline bool has(bool second, unsigned long bit) {
#if defined(__linux__)
  return (getauxval(second ? AT_HWCAP2 : AT_HWCAP) & bit) != 0;
#else
  (void)second, (void)bit;
  return false;
#endif
}

EDGECOMP_SIMD void look_up(const int8_t *planes, int elements, const uint8_t *codes, int8_t *columns) {
  const uint8x16_t index = vld1q_u8(codes);
  for (int e = 0; e < elements; ++e) vst1q_s8(columns + e * kRows, vqtbl1q_s8(vld1q_s8(planes + e * kLookedUp), index));
}

EDGECOMP_SIMD void look_up_quads(const QuadLookup &l) {
  const uint8_t *codes = l.codes;
  const int8_t *planes = l.planes;
  int8_t *tile = l.tile;
  const int8x16_t right = vdupq_n_s8(int8_t(-l.shift));
  for (int block = 0; block < l.blocks; ++block, codes += l.pitch, planes += l.planes_step) {
    const uint8x16_t index = vandq_u8(vshlq_u8(vld1q_u8(codes), right), vdupq_n_u8(15));
    for (int q = 0; q < l.quads; ++q, tile += 4 * kRows) {
      const int8_t *plane = planes + q * 4 * kLookedUp;
      vst4q_s8(tile, {{vqtbl1q_s8(vld1q_s8(plane), index), vqtbl1q_s8(vld1q_s8(plane + 16), index),
                       vqtbl1q_s8(vld1q_s8(plane + 32), index), vqtbl1q_s8(vld1q_s8(plane + 48), index)}});
    }
  }
}

EDGECOMP_SIMD void interleave(const int8_t *columns, int quads, int8_t *tile) {
  for (int q = 0; q < quads; ++q, columns += 4 * kRows, tile += 4 * kRows)
    vst4q_s8(tile, {{vld1q_s8(columns), vld1q_s8(columns + 16), vld1q_s8(columns + 32), vld1q_s8(columns + 48)}});
}

EDGECOMP_SIMD void add_row_sums(const int8_t *tile, int quads, int32_t *row_sums) {
  int32x4_t sums[4];
  for (int i = 0; i < 4; ++i) sums[i] = vld1q_s32(row_sums + 4 * i);
  for (int q = 0; q < quads; ++q, tile += 4 * kRows)
    for (int i = 0; i < 4; ++i) sums[i] = vpadalq_s16(sums[i], vpaddlq_s8(vld1q_s8(tile + 16 * i)));
  for (int i = 0; i < 4; ++i) vst1q_s32(row_sums + 4 * i, sums[i]);
}

// Stores four rows of a position, or adds them.
EDGECOMP_SIMD inline void put(int32_t *to, int32x4_t sums, bool add) {
  vst1q_s32(to, add ? vaddq_s32(vld1q_s32(to), sums) : sums);
}

#define EDGECOMP_NEON_DOT(name, available, inputs, quads, pack)                                                         \
  extern const Dot dot_##name = {#name, available, InputForm::kSigned, kRows, inputs, quads, 1,                         \
                                 quantize<InputForm::kSigned>, range_of, look_up, look_up_quads, interleave, pack,      \
                                 multiply_count<Multiply, inputs>, finish<InputForm::kSigned, kRows>}

}  // namespace
}  // namespace edgecomp
