// Armv8.6 with products of matrices of bytes: of two rows and two inputs, eight columns at a time.
#include "dot.h"

#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16)
#define EDGECOMP_SIMD __attribute__((target("arch=armv8.2-a+i8mm")))
#include "dot_neon.h"

namespace edgecomp {
namespace {

constexpr int kInputs = 4;

// Two quads of two rows become the eight columns of one row, then those of the other.
EDGECOMP_SIMD void pack(const int8_t *tile, int quads, void *packed, int32_t *row_sums) {
  add_row_sums(tile, quads, row_sums);
  int32_t *out = static_cast<int32_t *>(packed);
  for (int q = 0; q < quads; q += 2, tile += 8 * kRows, out += 2 * kRows) {
    int32x4_t first[4], second[4];
    for (int i = 0; i < 4; ++i) {
      first[i] = vreinterpretq_s32_s8(vld1q_s8(tile + 16 * i));
      second[i] = vreinterpretq_s32_s8(vld1q_s8(tile + 4 * kRows + 16 * i));
    }
    for (int i = 0; i < 4; ++i) {
      vst1q_s32(out + 8 * i, vzip1q_s32(first[i], second[i]));
      vst1q_s32(out + 8 * i + 4, vzip2q_s32(first[i], second[i]));
    }
  }
}

template <int count>
struct Multiply {
  static constexpr int kPairs = (count + 1) / 2;

  // Eight columns of weights of all rows times those of the inputs, a register for each two of them.
  EDGECOMP_SIMD static inline void add_two_quads(const int8_t *weights, const int8x16_t *x, int32x4_t (*sums)[8]) {
#pragma GCC unroll 16
    for (int r = 0; r < 8; ++r) {
      const int8x16_t w = vld1q_s8(weights + 16 * r);
#pragma GCC unroll 16
      for (int i = 0; i < kPairs; ++i) sums[i][r] = vmmlaq_s32(sums[i][r], x[i], w);
    }
  }

  EDGECOMP_SIMD static void run(const DotRun &run) {
    const int8_t *weights = static_cast<const int8_t *>(run.weights);
    int32x4_t sums[kPairs][8];  // of two rows: of the first input, then of the second
#pragma GCC unroll 16
    for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 8; ++r) sums[i][r] = vdupq_n_s32(0);
    for (int t = 0; t < run.tap_count; ++t) {
      const int8_t *x[2 * kPairs];
#pragma GCC unroll 16
      for (int i = 0; i < 2 * kPairs; ++i)
        x[i] = reinterpret_cast<const int8_t *>(run.inputs[i < count ? i : count - 1] + run.taps[t]);
      int8x16_t in[kPairs];
      int q = 0;
      for (; q + 4 <= run.quads; q += 4, weights += 16 * kRows) {
        int8x16_t next[kPairs];
#pragma GCC unroll 16
        for (int i = 0; i < kPairs; ++i) {
          const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x[2 * i] + 4 * q)), b = vreinterpretq_s64_s8(vld1q_s8(x[2 * i + 1] + 4 * q));
          in[i] = vreinterpretq_s8_s64(vzip1q_s64(a, b)), next[i] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
        add_two_quads(weights, in, sums);
        add_two_quads(weights + 8 * kRows, next, sums);
      }
      if (q == run.quads) continue;
#pragma GCC unroll 16
      for (int i = 0; i < kPairs; ++i) in[i] = vcombine_s8(vld1_s8(x[2 * i] + 4 * q), vld1_s8(x[2 * i + 1] + 4 * q));
      add_two_quads(weights, in, sums);
      weights += 8 * kRows;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) {
        const int32x4_t a = sums[i][2 * r], b = sums[i][2 * r + 1];
        put(run.sums + 2 * i * kRows + 4 * r, vcombine_s32(vget_low_s32(a), vget_low_s32(b)), run.add);
        if (2 * i + 1 < count)
          put(run.sums + (2 * i + 1) * kRows + 4 * r, vcombine_s32(vget_high_s32(a), vget_high_s32(b)), run.add);
      }
  }
};

}  // namespace

EDGECOMP_NEON_DOT(i8mm, [] { return has(true, kHasI8mm); }, kInputs, 2, pack);

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(i8mm);
}
#endif
