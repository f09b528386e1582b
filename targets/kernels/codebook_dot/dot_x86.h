// Decoding on x86-64: a byte shuffle looks up 16 rows. Needs EDGECOMP_SIMD and EDGECOMP_VECTOR_BYTES.
#pragma once

#include <immintrin.h>

#include "dot_simd.h"

namespace edgecomp {
namespace {

// Four columns of 16 rows become a quad of each row.
EDGECOMP_SIMD inline void store_quad(__m128i a, __m128i b, __m128i c, __m128i d, int8_t *tile) {
  const __m128i low_ab = _mm_unpacklo_epi8(a, b), low_cd = _mm_unpacklo_epi8(c, d);
  const __m128i high_ab = _mm_unpackhi_epi8(a, b), high_cd = _mm_unpackhi_epi8(c, d);
  __m128i *out = reinterpret_cast<__m128i *>(tile);
  _mm_storeu_si128(out, _mm_unpacklo_epi16(low_ab, low_cd));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low_ab, low_cd));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high_ab, high_cd));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high_ab, high_cd));
}

template <int rows>
EDGECOMP_SIMD void look_up(const int8_t *planes, int elements, const uint8_t *codes, int8_t *columns) {
  for (int r = 0; r < rows; r += 16) {
    const __m128i index = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + r));
    for (int e = 0; e < elements; ++e) {
      const __m128i plane = _mm_load_si128(reinterpret_cast<const __m128i *>(planes + e * kLookedUp));
      _mm_storeu_si128(reinterpret_cast<__m128i *>(columns + e * rows + r), _mm_shuffle_epi8(plane, index));
    }
  }
}

template <int rows>
EDGECOMP_SIMD void look_up_quads(const QuadLookup &l) {
  const uint8_t *codes = l.codes;
  const int8_t *planes = l.planes;
  int8_t *tile = l.tile;
  const __m128i right = _mm_cvtsi32_si128(l.shift);
  for (int block = 0; block < l.blocks; ++block, codes += l.pitch, planes += l.planes_step, tile += l.quads * 4 * rows)
    for (int r = 0; r < rows; r += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + r));
      const __m128i index = _mm_and_si128(_mm_srl_epi16(bytes, right), _mm_set1_epi8(15));
      const __m128i *plane = reinterpret_cast<const __m128i *>(planes);
      for (int q = 0; q < l.quads; ++q, plane += 4)
        store_quad(_mm_shuffle_epi8(plane[0], index), _mm_shuffle_epi8(plane[1], index), _mm_shuffle_epi8(plane[2], index),
                   _mm_shuffle_epi8(plane[3], index), tile + 4 * (q * rows + r));
    }
}

template <int rows>
EDGECOMP_SIMD void interleave(const int8_t *columns, int quads, int8_t *tile) {
  constexpr int step = rows / 16;
  const __m128i *from = reinterpret_cast<const __m128i *>(columns);
  for (int q = 0; q < quads; ++q, from += 4 * step, tile += 4 * rows)
    for (int i = 0; i < step; ++i)
      store_quad(from[i], from[step + i], from[2 * step + i], from[3 * step + i], tile + 64 * i);
}

}  // namespace
}  // namespace edgecomp
