// AVX2 has no dot product of four bytes: weights and inputs are kept as 16-bit integers, of which two at a time are multiplied
// and added up.
#include "dot.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define EDGECOMP_SIMD __attribute__((target("avx2,fma")))
#define EDGECOMP_VECTOR_BYTES 32
#include "dot_simd.h"

namespace edgecomp {
namespace {

constexpr int kRows = 16, kInputs = 6;

EDGECOMP_SIMD void look_up(const int8_t *planes, int elements, const uint8_t *codes, int8_t *columns) {
  const __m128i index = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes));
  for (int e = 0; e < elements; ++e) {
    const __m128i plane = _mm_load_si128(reinterpret_cast<const __m128i *>(planes + e * kLookedUp));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(columns + e * kRows), _mm_shuffle_epi8(plane, index));
  }
}

// Four columns of 16 rows become a quad of each row.
EDGECOMP_SIMD inline void store_quad(const __m128i *c, int8_t *tile) {
  const __m128i low01 = _mm_unpacklo_epi8(c[0], c[1]), low23 = _mm_unpacklo_epi8(c[2], c[3]);
  const __m128i high01 = _mm_unpackhi_epi8(c[0], c[1]), high23 = _mm_unpackhi_epi8(c[2], c[3]);
  __m128i *out = reinterpret_cast<__m128i *>(tile);
  _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
}

EDGECOMP_SIMD void look_up_quads(const QuadLookup &l) {
  const uint8_t *codes = l.codes;
  const int8_t *planes = l.planes;
  int8_t *tile = l.tile;
  const __m128i right = _mm_cvtsi32_si128(l.shift);
  for (int block = 0; block < l.blocks; ++block, codes += l.pitch, planes += l.planes_step) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes));
    const __m128i index = _mm_and_si128(_mm_srl_epi16(bytes, right), _mm_set1_epi8(15));
    const __m128i *plane = reinterpret_cast<const __m128i *>(planes);
    for (int q = 0; q < l.quads; ++q, plane += 4, tile += 4 * kRows) {
      const __m128i columns[4] = {_mm_shuffle_epi8(plane[0], index), _mm_shuffle_epi8(plane[1], index),
                                  _mm_shuffle_epi8(plane[2], index), _mm_shuffle_epi8(plane[3], index)};
      store_quad(columns, tile);
    }
  }
}

EDGECOMP_SIMD void interleave(const int8_t *columns, int quads, int8_t *tile) {
  const __m128i *from = reinterpret_cast<const __m128i *>(columns);
  for (int q = 0; q < quads; ++q, from += 4, tile += 4 * kRows) store_quad(from, tile);
}

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
                             quantize<InputForm::kCentered>, range_of, look_up, look_up_quads, interleave, pack,
                             multiply_count<Multiply, kInputs>, finish<InputForm::kCentered, kRows>};

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(avx2);
}
#endif
