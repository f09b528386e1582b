// Weights of a factor that are no codes.
#pragma once

#include <algorithm>
#include <cmath>

#include "recurrence.h"

namespace edgecomp {

// What is multiplied with integers: (level - zero) * scale, the levels being from -128 to 127.
struct Grid {
  float scale, zero;

  // The 256 levels that span the range of x and zero.
  Grid(const float *x, int count) {
    float low = 0, high = 0;
    for (int i = 0; i < count; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
    scale = std::max((high - low) / 255, 1.1920929e-07f);
    zero = clamped(std::nearbyint(-128 - low / scale));
  }

  // level - zero, from -255 to 255.
  int16_t operator()(float x) const { return int16_t(clamped(std::nearbyint(x / scale) + zero) - zero); }

 private:
  // 127 for what is not a number.
  static float clamped(float level) { return std::max(-128.0f, std::min(127.0f, level)); }
};

// Integer weights from `first` on, in the order of the rows, as int8.
inline void unpack_integers(const edgecomp_factor &factor, int64_t first, int count, int8_t *to) {
  const int bits = factor.bits, per_byte = 8 / bits;
  for (int i = 0; i < count; ++i) {
    const int64_t place = first + i;
    const int shifted = factor.w.codes[place / per_byte] << (8 - bits * (int(place % per_byte) + 1));
    to[i] = int8_t(int8_t(shifted & 255) >> (8 - bits));  // the sign is in the highest bit
  }
}

}  // namespace edgecomp
