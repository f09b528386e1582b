// Looking up on x86-64: one byte shuffle looks up as many products as a register has bytes. Needs EDGECOMP_SIMD.
#pragma once

#include <immintrin.h>

#include "simd_panel.h"
#include "simd_tables.h"

namespace edgecomp {
namespace {

// Registers of 16-bit numbers, and what differs with their width: `table` repeats 16 bytes over the register, `look_up`
// takes it byte by byte, `add_scaled` adds scale · sum to fp32 sums of as many rows as there are bytes, the sums of even
// and of odd rows given apart.
struct Bytes16 {
  static constexpr int kBytes = 16, kInputs = 2;
  typedef uint16_t Words __attribute__((vector_size(kBytes)));
  EDGECOMP_SIMD static Words load(const uint8_t *p) { return Words(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
  EDGECOMP_SIMD static Words table(const uint8_t *p) { return load(p); }
  EDGECOMP_SIMD static Words look_up(Words table, Words codes) { return Words(_mm_shuffle_epi8(__m128i(table), __m128i(codes))); }
  EDGECOMP_SIMD static void add_eight(__m128i sums, __m256 scale, float *out) {
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sums));
    _mm256_storeu_ps(out, _mm256_fmadd_ps(values, scale, _mm256_loadu_ps(out)));
  }
  EDGECOMP_SIMD static void add_scaled(Words even, Words odd, float scale, float *out) {
    add_eight(_mm_unpacklo_epi16(__m128i(even), __m128i(odd)), _mm256_set1_ps(scale), out);
    add_eight(_mm_unpackhi_epi16(__m128i(even), __m128i(odd)), _mm256_set1_ps(scale), out + 8);
  }
};

struct Bytes32 {
  static constexpr int kBytes = 32, kInputs = 2;
  typedef uint16_t Words __attribute__((vector_size(kBytes)));
  EDGECOMP_SIMD static Words load(const uint8_t *p) { return Words(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
  EDGECOMP_SIMD static Words table(const uint8_t *p) { return Words(_mm256_broadcastsi128_si256(__m128i(Bytes16::load(p)))); }
  EDGECOMP_SIMD static Words look_up(Words table, Words codes) { return Words(_mm256_shuffle_epi8(__m256i(table), __m256i(codes))); }
  EDGECOMP_SIMD static void add_scaled(Words even, Words odd, float scale, float *out) {
    const __m256i e = __m256i(even), o = __m256i(odd);
    Bytes16::add_scaled(Bytes16::Words(_mm256_castsi256_si128(e)), Bytes16::Words(_mm256_castsi256_si128(o)), scale, out);
    Bytes16::add_scaled(Bytes16::Words(_mm256_extracti128_si256(e, 1)), Bytes16::Words(_mm256_extracti128_si256(o, 1)), scale, out + 16);
  }
};

// 16-bit sums of looked-up bytes: `all` adds them as they lie (odd byte · 256 + even byte), `odd` the odd ones alone.
// Both start where a sum of bytes less their offsets does, so that none is subtracted at the end.
template <class Bytes>
struct Sums {
  typename Bytes::Words all, odd;

  EDGECOMP_SIMD void start(int value) {
    all = typename Bytes::Words{} + uint16_t(value * 257);
    odd = typename Bytes::Words{} + uint16_t(value);
  }
  EDGECOMP_SIMD void add(typename Bytes::Words bytes) {
    all += bytes;
    odd += bytes >> 8;
  }
  EDGECOMP_SIMD void flush(float scale, float *out) const { Bytes::add_scaled(all - (odd << 8), odd, scale, out); }
};

template <class Bytes, int inputs, int planes>
EDGECOMP_SIMD void accumulate_part(const Run &run, int first_input, int offset) {
  const int tables = run.shape.count, group = run.shape.group;
  const float *scales[inputs];
  for (int i = 0; i < inputs; ++i) scales[i] = run.shape.scales(run.tables[first_input + i]);
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
      const auto low_codes = codes & 0x0f0f, high_codes = codes >> 4 & 0x0f0f;
      for (int i = 0; i < inputs; ++i)
        for (int p = 0; p < planes; ++p) {
          const auto table = Bytes::table(run.tables[first_input + i] + (size_t(t) * planes + p) * kCodewords);
          low[i][p].add(Bytes::look_up(table, low_codes));
          high[i][p].add(Bytes::look_up(table, high_codes));
        }
    }
    for (int i = 0; i < inputs; ++i) {
      const float scale = scales[i][begin / group];
      float *out = run.sums + size_t(first_input + i) * 2 * run.cell + offset;
      for (int p = 0; p < planes; ++p) {
        low[i][p].flush(p ? 256 * scale : scale, out);
        high[i][p].flush(p ? 256 * scale : scale, out + run.cell);
      }
    }
  }
}

template <class Bytes, int together, int planes>
EDGECOMP_SIMD void accumulate_inputs(const Run &run, int offset) {
  int i = 0;
  for (; i + together <= run.inputs; i += together) accumulate_part<Bytes, together, planes>(run, i, offset);
  for (; i < run.inputs; ++i) accumulate_part<Bytes, 1, planes>(run, i, offset);
}

template <class Bytes>
EDGECOMP_SIMD void accumulate_with(const Run &run) {
  for (int offset = 0; offset < run.cell; offset += Bytes::kBytes) {
    if constexpr (has_tables(8))
      if (run.shape.planes == 1) accumulate_inputs<Bytes, Bytes::kInputs, 1>(run, offset);
    if constexpr (has_tables(16))
      if (run.shape.planes == 2) accumulate_inputs<Bytes, Bytes::kInputs / 2, 2>(run, offset);
  }
}

}  // namespace
}  // namespace edgecomp
