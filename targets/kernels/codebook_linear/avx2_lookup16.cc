// 16 codewords on x86-64 with AVX2: one byte shuffle looks up 32 products.
#include "lookup16.h"

#if defined(__x86_64__)
#include <immintrin.h>

using namespace edgecomp;

#define AVX2 __attribute__((target("avx2,fma,f16c")))

namespace {

int supports(const edgecomp_matrix *w) {
  return lookup16_fits(w) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

// Eight codebook values as fp32.
AVX2 inline __m256 load8(const edgecomp_matrix &w, size_t index) {
  if (!w.codebook_is_half) return _mm256_loadu_ps(static_cast<const float *>(w.codebook) + index);
  const void *halves = static_cast<const uint16_t *>(w.codebook) + index;
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i *>(halves)));
}

// The 16 products of table `t` = block * stages + stage.
AVX2 inline void products_of(const edgecomp_matrix &w, const float *x, int t, __m256 &low, __m256 &high) {
  const int block = t / w.stages, stage = t % w.stages;
  const size_t group = size_t(stage) * w.groups + block / edgecomp_blocks_per_group(&w);
  const size_t codebook = group * w.segment * 16;
  const float *segment = x + size_t(block) * w.segment;
  const int length = std::min(w.segment, w.columns - block * w.segment);
  low = high = _mm256_setzero_ps();
  for (int e = 0; e < length; ++e) {
    const __m256 value = _mm256_broadcast_ss(segment + e);
    low = _mm256_fmadd_ps(value, load8(w, codebook + e * 16), low);
    high = _mm256_fmadd_ps(value, load8(w, codebook + e * 16 + 8), high);
  }
}

AVX2 inline float largest(__m256 values) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps(v, v, 1)));
}

// Bytes 128 + round(product / scale); unused tables of the last group read as 0.
AVX2 void build_tables(const edgecomp_matrix &w, const float *x, const Lookup16Scratch &scratch) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const int tables = lookup16_tables(w);
  for (int group = 0; group * kGroup < tables; ++group) {
    const int first = group * kGroup, count = std::min(kGroup, tables - first);
    __m256 most = _mm256_setzero_ps();
    for (int i = 0; i < count; ++i) {
      __m256 low, high;
      products_of(w, x, first + i, low, high);
      _mm256_store_ps(scratch.products + i * 16, low);
      _mm256_store_ps(scratch.products + i * 16 + 8, high);
      most = _mm256_max_ps(most, _mm256_max_ps(_mm256_and_ps(low, magnitude), _mm256_and_ps(high, magnitude)));
    }
    const float bound = largest(most);
    scratch.scales[group] = bound / 127.0f;
    const __m256 inverse = _mm256_set1_ps(bound > 0 ? 127.0f / bound : 0.0f);
    for (int i = 0; i < kGroup; i += 2) {
      uint8_t *out = scratch.tables + size_t(first + i) * 16;
      __m256i part[4];
      for (int j = 0; j < 4; ++j) {
        const __m256 v = i + j / 2 < count ? _mm256_load_ps(scratch.products + i * 16 + j * 8) : _mm256_setzero_ps();
        part[j] = _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse));
      }
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3]));
      const __m256i sorted = _mm256_permutevar8x32_epi32(bytes, order);
      _mm256_store_si256(reinterpret_cast<__m256i *>(out), _mm256_xor_si256(sorted, _mm256_set1_epi8(char(0x80))));
    }
    for (int i = count; i < kGroup; ++i) std::memset(scratch.tables + size_t(first + i) * 16, 0, 16);
  }
}

// Sums of bytes, for the even and odd lanes of 16 rows apart: `all` adds them as 16-bit numbers (odd byte · 256 + even
// byte), `odd` the odd ones alone.
struct Sums {
  __m256i all, odd;

  AVX2 void clear() { all = odd = _mm256_setzero_si256(); }

  AVX2 void add(__m256i bytes) {
    all = _mm256_add_epi16(all, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }

  // Adds scale · (sum − offset) to 16 fp32 sums.
  AVX2 void flush(__m256 scale, int offset, float *out) const {
    const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
    const __m128i shift = _mm_set1_epi16(short(offset));
    const __m128i e = _mm_sub_epi16(_mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1)), shift);
    const __m128i o = _mm_sub_epi16(_mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256(odd, 1)), shift);
    const __m128i rows[2] = {_mm_unpacklo_epi16(e, o), _mm_unpackhi_epi16(e, o)};
    for (int i = 0; i < 2; ++i) {
      const __m256 sum = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(rows[i]));
      _mm256_store_ps(out + 8 * i, _mm256_fmadd_ps(sum, scale, _mm256_load_ps(out + 8 * i)));
    }
  }
};

// Outputs of the 32 rows of a tile.
AVX2 void tile_sums(const edgecomp_matrix &w, const Lookup16Scratch &scratch, int tile, float *out) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const int tables = lookup16_tables(w);
  const uint8_t *codes = w.codes + size_t(tile) * tables * 16;
  for (int i = 0; i < 32; i += 8) _mm256_store_ps(out + i, _mm256_setzero_ps());
  for (int group = 0; group * kGroup < tables; ++group) {
    const int first = group * kGroup, count = std::min(kGroup, tables - first);
    Sums low, high;
    low.clear();
    high.clear();
    // Two tables at once, one in each half of the register; a last odd one is paired with an unused table of zeros.
    for (int i = 0; i < count; i += 2) {
      const uint8_t *pair = codes + size_t(first + i) * 16;
      const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i *>(scratch.tables + size_t(first + i) * 16));
      const __m256i code = i + 1 < count ? _mm256_loadu_si256(reinterpret_cast<const __m256i *>(pair))
                                         : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(pair)));
      low.add(_mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
      high.add(_mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble)));
    }
    const __m256 scale = _mm256_broadcast_ss(scratch.scales + group);
    low.flush(scale, 128 * count, out);
    high.flush(scale, 128 * count, out + 16);
  }
}

void run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *memory) {
  const Lookup16Scratch scratch(*w, memory);
  for (int64_t b = 0; b < batch; ++b) {
    build_tables(*w, x + b * w->columns, scratch);
    for (int row = 0; row < w->rows; row += 32) {
      alignas(32) float sums[32];
      tile_sums(*w, scratch, row / 32, sums);
      const int rows = std::min(32, w->rows - row);
      for (int i = 0; i < rows; ++i) y[b * w->rows + row + i] = scaled(*w, row + i, sums[i]);
    }
  }
}

}  // namespace

extern "C" const edgecomp_linear_variant edgecomp_linear_avx2_lookup16 = {"avx2_lookup16", supports,
                                                                          Lookup16Scratch::bytes, run, 1 / 254.0f};
#else
EDGECOMP_LINEAR_ABSENT(avx2_lookup16);
#endif
