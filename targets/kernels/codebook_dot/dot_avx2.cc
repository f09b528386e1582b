// AVX2 has no dot product of four bytes: weights and inputs are kept as 16-bit integers, of which two at a time are multiplied
// and added up.
#include "dot.h"

#if defined(__x86_64__)
#define EDGECOMP_SIMD __attribute__((target("avx2,fma")))
#define EDGECOMP_VECTOR_BYTES 32
#include "dot_x86.h"

namespace edgecomp {
namespace {

constexpr int kRows = 16, kInputs = 6;

// Of eight rows: the first two columns of a quad, then the other two.
EDGECOMP_SIMD void pack(const int8_t *tile, int quads, void *packed, int32_t *) {
  const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                         0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  __m256i *out = static_cast<__m256i *>(packed);
  for (int q = 0; q < quads; ++q, tile += 4 * kRows, out += 4)
    for (int half = 0; half < 2; ++half) {
      const __m256i rows = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(tile + 32 * half));
      const __m256i sorted = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(rows, pairs), 0xd8);
      _mm256_store_si256(out + half, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(sorted)));
      _mm256_store_si256(out + 2 + half, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(sorted, 1)));
    }
}

template <int count>
struct Multiply {
  EDGECOMP_SIMD static void run(const DotRun &run) {
    const __m256i *weights = static_cast<const __m256i *>(run.weights);
    __m256i *out = reinterpret_cast<__m256i *>(run.sums);
    __m256i sums[count][2];
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) sums[i][h] = run.add ? _mm256_load_si256(out + 2 * i + h) : _mm256_setzero_si256();
    for (int t = 0; t < run.tap_count; ++t) {
      const char *x[count];
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) x[i] = run.inputs[i] + run.taps[t];
      for (int pair = 0; pair < 2 * run.quads; ++pair, weights += 2) {
        const __m256i low = _mm256_load_si256(weights), high = _mm256_load_si256(weights + 1);
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) {
          int32_t two;
          std::memcpy(&two, x[i] + 4 * pair, 4);
          const __m256i both = _mm256_set1_epi32(two);
          sums[i][0] = _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(low, both));
          sums[i][1] = _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(high, both));
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i)
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) _mm256_store_si256(out + 2 * i + h, sums[i][h]);
  }
};

bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

extern const Dot dot_avx2 = {"avx2", available, InputForm::kCentered, kRows, kInputs, 1, 2,
                             quantize<InputForm::kCentered>, range_of, look_up<kRows>, look_up_quads<kRows>, interleave<kRows>, pack,
                             multiply_count<Multiply, kInputs>, finish<InputForm::kCentered, kRows>};

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(avx2);
}
#endif
