// Looking up on x86-64: one byte shuffle looks up as many products as a register has bytes. Needs EDGECOMP_SIMD.
#pragma once

#include <immintrin.h>

#include "simd_panel.h"
#include "simd_tables.h"

namespace edgecomp {
namespace {

// Vectors of bytes: `table` repeats 16 bytes over the register, `add_scaled` adds scale · sum to fp32 sums of as many
// rows as there are bytes, the 16-bit sums of even and of odd rows given apart.
struct Bytes16 {
  using Vector = __m128i;
  static constexpr int kBytes = 16, kInputs = 2;
  EDGECOMP_SIMD static Vector load(const uint8_t *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
  EDGECOMP_SIMD static Vector table(const uint8_t *p) { return load(p); }
  EDGECOMP_SIMD static Vector set8(int v) { return _mm_set1_epi8(char(v)); }
  EDGECOMP_SIMD static Vector set16(int v) { return _mm_set1_epi16(short(v)); }
  EDGECOMP_SIMD static Vector both(Vector a, Vector b) { return _mm_and_si128(a, b); }
  EDGECOMP_SIMD static Vector look_up(Vector table, Vector code) { return _mm_shuffle_epi8(table, code); }
  EDGECOMP_SIMD static Vector add(Vector a, Vector b) { return _mm_add_epi16(a, b); }
  EDGECOMP_SIMD static Vector subtract(Vector a, Vector b) { return _mm_sub_epi16(a, b); }
  template <int bits> EDGECOMP_SIMD static Vector right(Vector a) { return _mm_srli_epi16(a, bits); }
  EDGECOMP_SIMD static Vector left8(Vector a) { return _mm_slli_epi16(a, 8); }
  EDGECOMP_SIMD static void add_eight(__m128i sums, __m256 scale, float *out) {
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums));
    _mm256_storeu_ps(out, _mm256_fmadd_ps(values, scale, _mm256_loadu_ps(out)));
  }
  EDGECOMP_SIMD static void add_scaled(Vector even, Vector odd, float scale, float *out) {
    add_eight(_mm_unpacklo_epi16(even, odd), _mm256_set1_ps(scale), out);
    add_eight(_mm_unpackhi_epi16(even, odd), _mm256_set1_ps(scale), out + 8);
  }
};

struct Bytes32 {
  using Vector = __m256i;
  static constexpr int kBytes = 32, kInputs = 2;
  EDGECOMP_SIMD static Vector load(const uint8_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
  EDGECOMP_SIMD static Vector table(const uint8_t *p) { return _mm256_broadcastsi128_si256(Bytes16::load(p)); }
  EDGECOMP_SIMD static Vector set8(int v) { return _mm256_set1_epi8(char(v)); }
  EDGECOMP_SIMD static Vector set16(int v) { return _mm256_set1_epi16(short(v)); }
  EDGECOMP_SIMD static Vector both(Vector a, Vector b) { return _mm256_and_si256(a, b); }
  EDGECOMP_SIMD static Vector look_up(Vector table, Vector code) { return _mm256_shuffle_epi8(table, code); }
  EDGECOMP_SIMD static Vector add(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  EDGECOMP_SIMD static Vector subtract(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
  template <int bits> EDGECOMP_SIMD static Vector right(Vector a) { return _mm256_srli_epi16(a, bits); }
  EDGECOMP_SIMD static Vector left8(Vector a) { return _mm256_slli_epi16(a, 8); }
  EDGECOMP_SIMD static void add_scaled(Vector even, Vector odd, float scale, float *out) {
    Bytes16::add_scaled(_mm256_castsi256_si128(even), _mm256_castsi256_si128(odd), scale, out);
    Bytes16::add_scaled(_mm256_extracti128_si256(even, 1), _mm256_extracti128_si256(odd, 1), scale, out + 16);
  }
};

// 16-bit sums of looked-up bytes: `all` adds them as they lie (odd byte · 256 + even byte), `odd` the odd ones alone.
// Both start where a sum of bytes less their offsets does, so that none is subtracted at the end.
template <class Bytes>
struct Sums {
  typename Bytes::Vector all, odd;

  EDGECOMP_SIMD void start(int value) {
    all = Bytes::set16(value * 257);
    odd = Bytes::set16(value);
  }
  EDGECOMP_SIMD void add(typename Bytes::Vector bytes) {
    all = Bytes::add(all, bytes);
    odd = Bytes::add(odd, Bytes::template right<8>(bytes));
  }
  EDGECOMP_SIMD void flush(float scale, float *out) const {
    Bytes::add_scaled(Bytes::subtract(all, Bytes::left8(odd)), odd, scale, out);
  }
};

template <class Bytes, int inputs, int planes>
EDGECOMP_SIMD void accumulate_part(const Run &run, int first_input, int offset) {
  const typename Bytes::Vector nibble = Bytes::set8(15);
  const int tables = run.shape.count, group = run.shape.group;
  for (int begin = 0; begin < tables; begin += group) {
    const int end = std::min(begin + group, tables);
    Sums<Bytes> low[inputs][planes], high[inputs][planes];
    for (int i = 0; i < inputs; ++i)
      for (int p = 0; p < planes; ++p) {
        const int start = p == planes - 1 ? 128 * (begin - end) : 0;
        low[i][p].start(start), high[i][p].start(start);
      }
#pragma GCC unroll 4
    for (int t = begin; t < end; ++t) {
      const auto codes = Bytes::load(run.codes + size_t(t) * run.cell + offset);
      const auto low_codes = Bytes::both(codes, nibble), high_codes = Bytes::both(Bytes::template right<4>(codes), nibble);
      for (int i = 0; i < inputs; ++i)
        for (int p = 0; p < planes; ++p) {
          const auto table = Bytes::table(run.tables[first_input + i] + (size_t(t) * planes + p) * kCodewords);
          low[i][p].add(Bytes::look_up(table, low_codes));
          high[i][p].add(Bytes::look_up(table, high_codes));
        }
    }
    for (int i = 0; i < inputs; ++i) {
      const float scale = run.scales[first_input + i][begin / group];
      float *out = run.sums + size_t(first_input + i) * 2 * run.cell + offset;
      for (int p = 0; p < planes; ++p) {
        low[i][p].flush(p ? 256 * scale : scale, out);
        high[i][p].flush(p ? 256 * scale : scale, out + run.cell);
      }
    }
  }
}

template <class Bytes>
EDGECOMP_SIMD void accumulate_with(const Run &run) {
  for (int offset = 0; offset < run.cell; offset += Bytes::kBytes) {
    int i = 0;
    if (run.shape.planes == 1)
      for (; i + Bytes::kInputs <= run.inputs; i += Bytes::kInputs) accumulate_part<Bytes, Bytes::kInputs, 1>(run, i, offset);
    else
      for (; i + Bytes::kInputs / 2 <= run.inputs; i += Bytes::kInputs / 2)
        accumulate_part<Bytes, Bytes::kInputs / 2, 2>(run, i, offset);
    for (; i < run.inputs; ++i) (run.shape.planes == 1 ? accumulate_part<Bytes, 1, 1> : accumulate_part<Bytes, 1, 2>)(run, i, offset);
  }
}

}  // namespace
}  // namespace edgecomp
