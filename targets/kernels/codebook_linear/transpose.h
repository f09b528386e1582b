// From channels last to channels first, and back.
#pragma once

#include <cstddef>
#include <cstring>

namespace edgecomp {

typedef float Four __attribute__((vector_size(16)));

// Four rows of four floats become four columns.
inline void transpose_four(const float *from, size_t from_stride, float *to, size_t to_stride) {
  Four v[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&v[i], from + i * from_stride, sizeof v[i]);
  const Four a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
  const Four c = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5), v[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5), v[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &v[i], sizeof v[i]);
}

// to[c * to_stride + r] = from[r * from_stride + c].
inline void transpose(const float *from, size_t from_stride, int rows, int columns, float *to, size_t to_stride) {
  const int whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int c = 0; c < whole_columns; c += 4)
    for (int r = 0; r < whole_rows; r += 4)
      transpose_four(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
  for (int r = 0; r < rows; ++r)
    for (int c = r < whole_rows ? whole_columns : 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

}  // namespace edgecomp
