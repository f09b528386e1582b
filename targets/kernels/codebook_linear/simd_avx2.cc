#include "simd.h"

#if defined(__x86_64__)
#define EDGECOMP_SIMD __attribute__((target("avx2,fma,f16c")))
#define EDGECOMP_VECTOR_BYTES 32
#include "simd_x86.h"

namespace edgecomp {
namespace {

struct Sixteen {
  __m256 low, high;

  EDGECOMP_SIMD static Sixteen zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  EDGECOMP_SIMD static Sixteen load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  EDGECOMP_SIMD static Sixteen load_half(const uint16_t *p) {
    const __m128i *halves = reinterpret_cast<const __m128i *>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }
  EDGECOMP_SIMD void store(float *p) const { _mm256_store_ps(p, low), _mm256_store_ps(p + 8, high); }
  EDGECOMP_SIMD void add_product(float x, const Sixteen &words) {
    const __m256 value = _mm256_set1_ps(x);
    low = _mm256_fmadd_ps(value, words.low, low);
    high = _mm256_fmadd_ps(value, words.high, high);
  }
  EDGECOMP_SIMD Sixteen most(const Sixteen &other) const {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_max_ps(low, _mm256_and_ps(other.low, magnitude)), _mm256_max_ps(high, _mm256_and_ps(other.high, magnitude))};
  }
  EDGECOMP_SIMD float largest() const {
    const __m256 eight = _mm256_max_ps(low, high);
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps(v, v, 1)));
  }
  EDGECOMP_SIMD Sixteen times(float factor) const {
    const __m256 f = _mm256_set1_ps(factor);
    return {_mm256_mul_ps(low, f), _mm256_mul_ps(high, f)};
  }
  // Rounded, sixteen signed 16-bit integers.
  EDGECOMP_SIMD __m256i rounded() const {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high)), 0xd8);
  }
  EDGECOMP_SIMD void to_bytes(uint8_t *p) const {
    const __m256i words = rounded();
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_xor_si128(bytes, _mm_set1_epi8(char(0x80))));
  }
  EDGECOMP_SIMD void to_planes(uint8_t *p) const {
    const __m256i words = _mm256_xor_si256(rounded(), _mm256_set1_epi16(short(0x8000)));
    const __m256i low_bytes = _mm256_and_si256(words, _mm256_set1_epi16(255)), high_bytes = _mm256_srli_epi16(words, 8);
    const __m256i planes = _mm256_packus_epi16(low_bytes, high_bytes);  // low, high, low, high, 8 bytes each
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(planes, 0xd8));
  }
};

// What has AVX2 has F16C, which older compilers cannot ask for.
bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

EDGECOMP_SIMD void accumulate(const Run &run) {
  (run.cell % Bytes32::kBytes == 0 ? accumulate_with<Bytes32> : accumulate_with<Bytes16>)(run);
}

}  // namespace

extern const Simd simd_avx2 = {"avx2", available, 2, build_tables<Sixteen>, accumulate, multiply_panel};

}  // namespace edgecomp
#else
EDGECOMP_SIMD_ABSENT(avx2)
#endif
