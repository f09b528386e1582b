#include "simd.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of the undefined vectors in GCC 12's own headers
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define EDGECOMP_SIMD __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")))
#define EDGECOMP_VECTOR_BYTES 64
#include "simd_x86.h"

namespace edgecomp {
namespace {

struct Sixteen {
  __m512 v;

  EDGECOMP_SIMD static Sixteen zero() { return {_mm512_setzero_ps()}; }
  EDGECOMP_SIMD static Sixteen load(const float *p) { return {_mm512_loadu_ps(p)}; }
  EDGECOMP_SIMD static Sixteen load_half(const uint16_t *p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))};
  }
  EDGECOMP_SIMD void store(float *p) const { _mm512_store_ps(p, v); }
  EDGECOMP_SIMD void add_product(float x, const Sixteen &words) { v = _mm512_fmadd_ps(_mm512_set1_ps(x), words.v, v); }
  EDGECOMP_SIMD Sixteen most(const Sixteen &other) const { return {_mm512_max_ps(v, _mm512_abs_ps(other.v))}; }
  EDGECOMP_SIMD float largest() const { return _mm512_reduce_max_ps(v); }
  EDGECOMP_SIMD Sixteen times(float factor) const { return {_mm512_mul_ps(v, _mm512_set1_ps(factor))}; }
  EDGECOMP_SIMD void to_bytes(uint8_t *p) const {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_xor_si128(bytes, _mm_set1_epi8(char(0x80))));
  }
  EDGECOMP_SIMD void to_planes(uint8_t *p) const {
    const __m512i words = _mm512_xor_si512(_mm512_cvtps_epi32(v), _mm512_set1_epi32(0x8000));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(words));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p + kCodewords), _mm512_cvtepi32_epi8(_mm512_srli_epi32(words, 8)));
  }
};

struct Bytes64 {
  static constexpr int kBytes = 64, kInputs = 4;
  typedef uint16_t Words __attribute__((vector_size(kBytes)));
  EDGECOMP_SIMD static Words load(const uint8_t *p) { return Words(_mm512_loadu_si512(p)); }
  EDGECOMP_SIMD static Words table(const uint8_t *p) { return Words(_mm512_broadcast_i32x4(__m128i(Bytes16::load(p)))); }
  EDGECOMP_SIMD static Words look_up(Words table, Words codes) { return Words(_mm512_shuffle_epi8(__m512i(table), __m512i(codes))); }
  EDGECOMP_SIMD static void add_sixteen(__m256i sums, __m512 scale, float *out) {
    const __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(sums));
    _mm512_storeu_ps(out, _mm512_fmadd_ps(values, scale, _mm512_loadu_ps(out)));
  }
  EDGECOMP_SIMD static void add_scaled(Words even, Words odd, float scale, float *out) {
    const __m512 scales = _mm512_set1_ps(scale);
    const __m512i step = _mm512_set1_epi32(0x00200000), lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i order = _mm512_or_si512(_mm512_or_si512(lanes, _mm512_slli_epi32(lanes, 16)), step);  // e0 o0 e1 o1 …
    const __m512i rows[2] = {_mm512_permutex2var_epi16(__m512i(even), order, __m512i(odd)),
                             _mm512_permutex2var_epi16(__m512i(even), _mm512_add_epi16(order, _mm512_set1_epi16(16)), __m512i(odd))};
    for (int i = 0; i < 2; ++i) {
      add_sixteen(_mm512_castsi512_si256(rows[i]), scales, out + 32 * i);
      add_sixteen(_mm512_extracti64x4_epi64(rows[i], 1), scales, out + 32 * i + 16);
    }
  }
};

bool available() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

EDGECOMP_SIMD void accumulate(const Run &run) {
  (run.cell == Bytes64::kBytes   ? accumulate_with<Bytes64>
   : run.cell == Bytes32::kBytes ? accumulate_with<Bytes32>
                                 : accumulate_with<Bytes16>)(run);
}

}  // namespace

extern const Simd simd_avx512 = {"avx512", available, 4, build_tables<Sixteen>, accumulate, multiply_panel};

}  // namespace edgecomp
#else
EDGECOMP_SIMD_ABSENT(avx512)
#endif
