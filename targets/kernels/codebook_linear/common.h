// What the variants share: reading codes, codewords and inputs one at a time.
#pragma once

#include <algorithm>
#include <cstring>

#include "codebook_linear.h"

// What a variant for another processor defines in place of itself.
#define EDGECOMP_LINEAR_ABSENT(name)                                      \
  extern "C" const edgecomp_linear_variant edgecomp_linear_##name = {     \
      #name, [](const edgecomp_matrix *) { return 0; }, nullptr, nullptr, 0}

namespace edgecomp {

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero or subnormal: fraction * 2^-24
    const float magnitude = float(fraction) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &magnitude, 4);
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Element `e` of codeword `c` in the codebook of `block`.
inline float codebook_value(const edgecomp_matrix &w, int stage, int block, int e, int c) {
  const size_t group = size_t(stage) * w.groups + block / edgecomp_blocks_per_group(&w);
  const size_t index = (group * w.segment + e) * w.codewords + c;
  return w.codebook_is_half ? half_to_float(static_cast<const uint16_t *>(w.codebook)[index])
                            : static_cast<const float *>(w.codebook)[index];
}

inline const uint8_t *cell(const edgecomp_matrix &w, int tile, int block, int stage) {
  const size_t index = (size_t(tile) * edgecomp_blocks(&w) + block) * w.stages + stage;
  return w.codes + index * edgecomp_cell_bytes(&w);
}

// The code of `lane` (within its tile), never more than codewords - 1.
inline int code_in_cell(const edgecomp_matrix &w, const uint8_t *bytes, int bits, int lane) {
  int code = 0, shift = 0;
  for (int width = 8; width >= 1; width /= 2) {
    if (!(bits & width)) continue;
    const int plane = w.tile * width / 8;
    code |= ((bytes[lane % plane] >> (width * (lane / plane))) & ((1 << width) - 1)) << shift;
    bytes += plane;
    shift += width;
  }
  return std::min(code, w.codewords - 1);
}

// All codes of a cell at once.
inline void unpack_cell(const edgecomp_matrix &w, const uint8_t *bytes, int bits, uint8_t *codes) {
  std::memset(codes, 0, w.tile);
  for (int width = 8, shift = 0; width >= 1; width /= 2) {
    if (!(bits & width)) continue;
    const int plane = w.tile * width / 8, mask = (1 << width) - 1;
    for (int field = 0; field < 8 / width; ++field)
      for (int i = 0; i < plane; ++i)
        codes[field * plane + i] |= uint8_t(((bytes[i] >> (width * field)) & mask) << shift);
    bytes += plane;
    shift += width;
  }
  if (w.codewords < 1 << bits)
    for (int lane = 0; lane < w.tile; ++lane) codes[lane] = std::min<int>(codes[lane], w.codewords - 1);
}

inline float scaled(const edgecomp_matrix &w, int row, float sum) {
  return sum * (w.scale ? w.scale[row] : 1.0f) + (w.bias ? w.bias[row] : 0.0f);
}

}  // namespace edgecomp
