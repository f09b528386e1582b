// Plain Armv8.0: products of 8 bits in 16; two of them fit, which are then added up by pairs in 32.
#include "dot.h"

#if defined(__aarch64__)
#define EDGECOMP_SIMD
#include "dot_neon.h"

namespace edgecomp {
namespace {

constexpr int kInputs = 2;

void pack(const int8_t *tile, int quads, void *, int32_t *row_sums) { add_row_sums(tile, quads, row_sums); }

// A quad of inputs, twice.
inline int8x8_t twice(const char *x) {
  int32_t quad;
  std::memcpy(&quad, x, 4);
  return vreinterpret_s8_s32(vdup_n_s32(quad));
}

template <int count>
struct Multiply {
  static void run(const DotRun &run) {
    const int8_t *weights = static_cast<const int8_t *>(run.weights);
    int32x4_t sums[count][8];  // of two rows each: the first two columns and the last two of quads
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 8; ++r) sums[i][r] = vdupq_n_s32(0);
    for (int t = 0; t < run.tap_count; ++t) {
      const char *x[count];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) x[i] = run.inputs[i] + run.taps[t];
      int q = 0;
      for (; q + 2 <= run.quads; q += 2, weights += 8 * kRows) {
        int8x8_t first[count], second[count];
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) first[i] = twice(x[i] + 4 * q), second[i] = twice(x[i] + 4 * q + 4);
#pragma GCC unroll 16
        for (int r = 0; r < 8; ++r) {
          const int8x8_t a = vld1_s8(weights + 8 * r), b = vld1_s8(weights + 4 * kRows + 8 * r);
#pragma GCC unroll 16
          for (int i = 0; i < count; ++i)
            sums[i][r] = vpadalq_s16(sums[i][r], vmlal_s8(vmull_s8(a, first[i]), b, second[i]));
        }
      }
      if (q == run.quads) continue;
#pragma GCC unroll 16
      for (int r = 0; r < 8; ++r)
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i)
          sums[i][r] = vpadalq_s16(sums[i][r], vmull_s8(vld1_s8(weights + 8 * r), twice(x[i] + 4 * q)));
      weights += 4 * kRows;
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 16
      for (int r = 0; r < 4; ++r) put(run.sums + i * kRows + 4 * r, vpaddq_s32(sums[i][2 * r], sums[i][2 * r + 1]), run.add);
  }
};

}  // namespace

EDGECOMP_NEON_DOT(neon, [] { return true; }, kInputs, 1, pack);

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(neon);
}
#endif
