// What the kernels share: reading codes, codewords and threads.
#pragma once

#include <algorithm>
#include <cstring>

#include "codebook_linear.h"

// Plain C++ is for processors without SIMD code, and for tests. Every ARM64 has NEON: an app can leave it out there.
#if !defined(EDGECOMP_WITHOUT_PLAIN) || !defined(__aarch64__)
#define EDGECOMP_PLAIN
#endif

namespace edgecomp {

// Without branches, so that loops over it become SIMD code.
inline float half_to_float(uint16_t half) {
  uint32_t bits = uint32_t(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  value *= 5192296858534827628530496329220096.0f;  // 2^112, between the biases of the exponents; right for subnormals
  std::memcpy(&bits, &value, 4);
  bits |= uint32_t(half & 0x8000) << 16 | ((half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u);
  std::memcpy(&value, &bits, 4);
  return value;
}

// Where in the codebooks the codewords of `block` begin.
inline size_t codebook_index(const edgecomp_matrix &w, int stage, int block) {
  const size_t group = size_t(stage) * w.groups + block / edgecomp_blocks_per_group(&w);
  return group * w.segment * w.codewords;
}

// Element `e` of codeword `c` in the codebook of `block`.
inline float codebook_value(const edgecomp_matrix &w, int stage, int block, int e, int c) {
  const size_t index = codebook_index(w, stage, block) + size_t(e) * w.codewords + c;
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

constexpr int kMostLanes = 128;  // of a tile

// The bits of a plane, put or added to the codes of a cell. The width is a constant so that loops become SIMD code.
template <int width>
inline void unpack_plane(const uint8_t *bytes, int plane, int shift, uint8_t *codes) {
  for (int field = 0; field < 8 / width; ++field, codes += plane) {
    const auto value = [&](int i) { return uint8_t((bytes[i] >> (width * field)) & ((1 << width) - 1)); };
    if (shift == 0)
      for (int i = 0; i < plane; ++i) codes[i] = value(i);
    else
      for (int i = 0; i < plane; ++i) codes[i] |= uint8_t(value(i) << shift);
  }
}

// All codes of a cell at once.
inline void unpack_cell(const edgecomp_matrix &w, const uint8_t *bytes, int bits, uint8_t *codes) {
  if (bits == 8) std::copy_n(bytes, w.tile, codes);
  for (int width = 4, shift = 0; width >= 1; width /= 2) {
    if (!(bits & width)) continue;
    const int plane = w.tile * width / 8;
    (width == 4 ? unpack_plane<4> : width == 2 ? unpack_plane<2> : unpack_plane<1>)(bytes, plane, shift, codes);
    bytes += plane;
    shift += width;
  }
  if (w.codewords < 1 << bits)
    for (int lane = 0; lane < w.tile; ++lane) codes[lane] = std::min<int>(codes[lane], w.codewords - 1);
}

// What follows the sum of an output.
inline float finished(const edgecomp_matrix &w, int row, float sum) {
  const float value = sum * (w.scale ? w.scale[row] : 1.0f) + (w.bias ? w.bias[row] : 0.0f);
  return w.relu ? std::max(value, 0.0f) : value;
}

// The same of neighbouring rows. `y` may be `sums`.
void finish_rows(const edgecomp_matrix &w, int first_row, int rows, const float *sums, float *y);

inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

inline int count_threads(const edgecomp_threads *threads) { return threads ? threads->threads : 1; }

// Calls work(i) for every i below `count`, on the threads there are.
template <class Work>
void for_each(const edgecomp_threads *threads, size_t count, const Work &work) {
  if (count_threads(threads) < 2 || count < 2) {
    for (size_t i = 0; i < count; ++i) work(i);
    return;
  }
  const auto task = [](void *context, size_t index) { (*static_cast<const Work *>(context))(index); };
  threads->run(threads->pool, task, const_cast<Work *>(&work), count);
}

}  // namespace edgecomp
