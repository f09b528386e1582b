// Armv8.2 with dot products of four bytes.
#include "dot.h"

#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16)
#define EDGECOMP_SIMD __attribute__((target("arch=armv8.2-a+dotprod")))
#include "dot_neon.h"

namespace edgecomp {
namespace {

constexpr int kInputs = 4;

EDGECOMP_SIMD void pack(const int8_t *tile, int quads, void *, int32_t *row_sums) { add_row_sums(tile, quads, row_sums); }

template <int count>
struct Multiply {
  // A quad of weights of all rows times quad `lane` of the inputs.
  template <int lane>
  EDGECOMP_SIMD static inline void add_quad(const int8_t *weights, const int8x16_t *x, int32x4_t (*sums)[4]) {
    const int8x16_t w[4] = {vld1q_s8(weights), vld1q_s8(weights + 16), vld1q_s8(weights + 32), vld1q_s8(weights + 48)};
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) sums[i][r] = vdotq_laneq_s32(sums[i][r], w[r], x[i], lane);
  }

  EDGECOMP_SIMD static void run(const DotRun &run) {
    const int8_t *weights = static_cast<const int8_t *>(run.weights);
    int32x4_t sums[count][4];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) sums[i][r] = vdupq_n_s32(0);
    for (int t = 0; t < run.tap_count; ++t) {
      const int8_t *x[count];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) x[i] = reinterpret_cast<const int8_t *>(run.inputs[i] + run.taps[t]);
      int8x16_t in[count];
      int q = 0;
      for (; q + 4 <= run.quads; q += 4, weights += 16 * kRows) {
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) in[i] = vld1q_s8(x[i] + 4 * q);
        add_quad<0>(weights, in, sums);
        add_quad<1>(weights + 4 * kRows, in, sums);
        add_quad<2>(weights + 8 * kRows, in, sums);
        add_quad<3>(weights + 12 * kRows, in, sums);
      }
      for (; q < run.quads; ++q, weights += 4 * kRows) {
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) {
          int32_t quad;
          std::memcpy(&quad, x[i] + 4 * q, 4);
          in[i] = vreinterpretq_s8_s32(vdupq_n_s32(quad));
        }
        add_quad<0>(weights, in, sums);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) put(run.sums + i * kRows + 4 * r, sums[i][r], run.add);
  }
};

}  // namespace

EDGECOMP_NEON_DOT(dotprod, [] { return has(false, kHasDotprod); }, kInputs, 1, pack);

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(dotprod);
}
#endif
