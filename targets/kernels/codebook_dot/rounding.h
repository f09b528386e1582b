// How weights and inputs become integers: the same on every processor, bit for bit.
#pragma once

#include <cfloat>

#include "../codebook_linear/common.h"

namespace edgecomp {

constexpr float kMostWeight = 127, kMostInput = 255;
constexpr int kFraction = 8;  // bits below the point of codewords that are added up

// To the nearest integer, ties to even; for |value| < 2^22. What is between two limits has been clamped: no compiler then
// makes one rounding of a product and a sum.
inline int32_t rounded(float value, float least, float most) {
  const float inside = value > least ? (value < most ? value : most) : least;  // not a number: least
  const float shifted = inside + 12582912.0f;  // 1.5 · 2^23
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  return bits - 0x4b400000;
}

// 1 / scale; 0 where that is no number to multiply with.
inline float inverse_of(float scale) { return scale >= FLT_MIN && scale <= FLT_MAX ? 1.0f / scale : 0.0f; }

// Inputs between `low` <= 0 and `high` >= 0: x ≈ scale · (integer - zero).
struct InputRange {
  float scale, inverse;
  int32_t zero;

  InputRange() = default;
  InputRange(float low, float high) : scale((high - low) / kMostInput), inverse(inverse_of(scale)) {
    if (inverse == 0) scale = 0;
    zero = rounded(-low * inverse, 0, kMostInput);
  }
  // Of the integer less `zero`.
  float least() const { return float(-zero); }
  float most() const { return kMostInput - float(zero); }
};

// The largest magnitude of `count` values, as bits that are compared like integers; those of what is no number are larger.
template <class Bits>
inline Bits largest_bits(const Bits *values, size_t count) {
  constexpr Bits magnitude = Bits(~(Bits(1) << (8 * sizeof(Bits) - 1)));
  Bits most = 0;
  for (size_t i = 0; i < count; ++i) {
    const Bits size = Bits(values[i] & magnitude);
    most = size > most ? size : most;
  }
  return most;
}

// The same of codewords; what is no number counts as infinite.
inline float largest_codeword(const edgecomp_matrix &w, size_t first, size_t count) {
  if (w.codebook_is_half)
    return half_to_float(uint16_t(std::min<int16_t>(largest_bits(static_cast<const int16_t *>(w.codebook) + first, count), 0x7c00)));
  const int32_t bits = std::min(largest_bits(static_cast<const int32_t *>(w.codebook) + first, count), 0x7f800000);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The largest magnitude a weight can have, less its row's scale.
inline float largest_weight(const edgecomp_matrix &w) {
  float largest = 0;
  for (int group = 0; group < w.groups; ++group) {
    float sum = 0;
    for (int stage = 0; stage < w.stages; ++stage) {
      const size_t count = size_t(w.segment) * w.codewords, first = (size_t(stage) * w.groups + group) * count;
      sum += largest_codeword(w, first, count);
    }
    largest = sum > largest ? sum : largest;
  }
  return largest;
}

// Of one codeword, the only one of a weight.
inline int8_t rounded_word(float value, float inverse) {
  return int8_t(rounded(value * inverse, -kMostWeight, kMostWeight));
}

// One of several that are added up, in 256ths.
inline int16_t rounded_part(float value, float inverse) {
  constexpr float most = kMostWeight * (1 << kFraction);
  return int16_t(rounded(value * (inverse * (1 << kFraction)), -most, most));
}

// Their sum.
inline int8_t whole(int16_t parts) { return int8_t((parts + (1 << (kFraction - 1))) >> kFraction); }

}  // namespace edgecomp
