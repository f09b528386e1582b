#include "dot.h"

#ifdef EDGECOMP_PLAIN
#define EDGECOMP_SIMD
#define EDGECOMP_VECTOR_BYTES 16
#include "dot_simd.h"

namespace edgecomp {
namespace {

constexpr int kRows = 8, kInputs = 4;

void pack(const int8_t *tile, int quads, void *packed, int32_t *row_sums) {
  if (packed != tile) std::copy_n(tile, size_t(quads) * 4 * kRows, static_cast<int8_t *>(packed));
  for (int q = 0; q < quads; ++q)
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; j < 4; ++j) row_sums[r] += tile[(q * kRows + r) * 4 + j];
}

void multiply(const DotRun &run) {
  for (int i = 0; i < run.count; ++i) {
    const int8_t *weights = static_cast<const int8_t *>(run.weights);
    int32_t sums[kRows] = {};
    for (int t = 0; t < run.tap_count; ++t) {
      const uint8_t *x = reinterpret_cast<const uint8_t *>(run.inputs[i] + run.taps[t]);
      for (int q = 0; q < run.quads; ++q, weights += 4 * kRows, x += 4)
        for (int r = 0; r < kRows; ++r)
          for (int j = 0; j < 4; ++j) sums[r] += weights[4 * r + j] * x[j];
    }
    for (int r = 0; r < kRows; ++r) run.sums[i * kRows + r] = sums[r] + (run.add ? run.sums[i * kRows + r] : 0);
  }
}

}  // namespace

extern const Dot dot_plain = {"plain", [] { return true; }, InputForm::kUnsigned, kRows, kInputs, 1, 1,
                              quantize<InputForm::kUnsigned>, range_of, look_up_plainly<kRows>, nullptr, interleave_plainly<kRows>,
                              pack, multiply, finish<InputForm::kUnsigned, kRows>};

}  // namespace edgecomp
#endif
