// From codes to int8.
#include "dot.h"

namespace edgecomp {
namespace {

constexpr int kColumns = 64;  // decoded at a time

// Codes of some lanes of a plane: `count` of them from `lane` on, in bytes side by side, with the same shift.
template <int width>
void add_plane(const uint8_t *bytes, int plane, int shift, int lane, int count, uint8_t *codes) {
  const uint8_t *from = bytes + lane % plane;
  const int right = width * (lane / plane);
  for (int i = 0; i < count; ++i) {
    const int value = ((from[i] >> right) & ((1 << width) - 1)) << shift;
    codes[i] = uint8_t(shift ? codes[i] | value : value);
  }
}

// Codes of `count` lanes from `first` on, whatever the tiles; 0 behind the last one.
void unpack_lanes(const edgecomp_matrix &w, int bits, int block, int stage, int first, int count, uint8_t *codes) {
  const int lanes = edgecomp_divide_up(edgecomp_lanes(&w), w.tile) * w.tile;
  const int end = std::min(first + count, lanes);
  for (int i = std::max(0, end - first); i < count; ++i) codes[i] = 0;
  for (int at = first; at < end;) {
    const uint8_t *bytes = cell(w, at / w.tile, block, stage);
    const int lane = at % w.tile, here = std::min(end - at, w.tile - lane);
    uint8_t *to = codes + (at - first);
    int shift = 0;
    for (int width = 8; width >= 1; width /= 2) {
      if (!(bits & width)) continue;
      const int plane = w.tile * width / 8;
      for (int done = 0; done < here;) {
        const int from = lane + done, run = std::min(here - done, plane - from % plane);
        (width == 8 ? add_plane<8> : width == 4 ? add_plane<4> : width == 2 ? add_plane<2> : add_plane<1>)(
            bytes, plane, shift, from, run, to + done);
        done += run;
      }
      bytes += plane;
      shift += width;
    }
    at += here;
  }
  if (w.codewords < 1 << bits)
    for (int i = 0; i < count; ++i) codes[i] = std::min<int>(codes[i], w.codewords - 1);
}

float value_at(const edgecomp_matrix &w, size_t index) {
  return w.codebook_is_half ? half_to_float(static_cast<const uint16_t *>(w.codebook)[index])
                            : static_cast<const float *>(w.codebook)[index];
}

}  // namespace

DotWords::DotWords(const edgecomp_matrix &w, const Dot &dot)
    : w_(w), dot_(dot), words_(w.axis == 0 && w.stages == 1 && w.segment % 4 == 0 && w.codewords > kLookedUp),
      stride_(w.codewords <= kLookedUp ? kLookedUp : w.codewords) {}

size_t DotWords::bytes() const {
  return aligned(size_t(w_.stages) * w_.groups * w_.segment * stride_ * (w_.stages == 1 ? 1 : 2));
}

void DotWords::make(void *memory) {
  memory_ = memory;
  scale_ = largest_weight(w_) / kMostWeight;
  const float inverse = inverse_of(scale_);
  const int k = w_.codewords, s = w_.segment;
  const size_t books = size_t(w_.stages) * w_.groups;
  for (size_t book = 0; book < books; ++book)
    for (int e = 0; e < s; ++e) {
      const size_t from = (book * s + e) * k, to = (book * s + e) * stride_;
      if (w_.stages > 1) {
        int16_t *plane = static_cast<int16_t *>(memory) + to;
        for (int c = 0; c < k; ++c) plane[c] = rounded_part(value_at(w_, from + c), inverse);
        std::fill(plane + k, plane + stride_, int16_t(0));
      } else if (words_) {
        int8_t *words = static_cast<int8_t *>(memory) + book * s * k;
        for (int c = 0; c < k; ++c) words[size_t(c) * s + e] = rounded_word(value_at(w_, from + c), inverse);
      } else {
        int8_t *plane = static_cast<int8_t *>(memory) + to;
        for (int c = 0; c < k; ++c) plane[c] = rounded_word(value_at(w_, from + c), inverse);
        std::fill(plane + k, plane + stride_, int8_t(0));
      }
    }
}

void DotWords::decode(int row, int column, int columns, int quads, int8_t *tile) const {
  const int rows = dot_.rows;
  if (words_ && column % 4 == 0 && columns % 4 == 0) {
    by_words(row, column, columns / 4, tile);
    std::fill_n(tile + columns * rows, size_t(4 * quads - columns) * rows, int8_t(0));
    return;
  }
  for (int done = 0; done < 4 * quads; done += kColumns) {
    alignas(64) int8_t made[kColumns * kMostDotRows];
    const int wanted = std::min(kColumns, 4 * quads - done), there = std::clamp(columns - done, 0, wanted);
    if (there) by_columns(row, column + done, there, made);
    std::fill_n(made + there * rows, size_t(wanted - there) * rows, int8_t(0));
    dot_.interleave(made, wanted / 4, tile + size_t(done) * rows);
  }
}

// Where a quad is part of a codeword.
void DotWords::by_words(int row, int column, int quads, int8_t *tile) const {
  const int s = w_.segment, rows = dot_.rows, bits = edgecomp_bits(&w_), shared = edgecomp_blocks_per_group(&w_);
  uint8_t codes[kMostDotRows];
  for (int quad = 0, block_known = -1; quad < quads; ++quad, tile += 4 * rows) {
    const int at = column + 4 * quad, block = at / s;
    if (block != block_known) unpack_lanes(w_, bits, block, 0, row, rows, codes), block_known = block;
    const int8_t *words = static_cast<const int8_t *>(memory_) + size_t(block / shared) * s * w_.codewords + at % s;
    for (int r = 0; r < rows; ++r) std::memcpy(tile + 4 * r, words + size_t(codes[r]) * s, 4);
  }
}

void DotWords::by_columns(int row, int column, int columns, int8_t *out) const {
  w_.axis == 0 ? along_rows(row, column, columns, out) : down_columns(row, column, columns, out);
}

void DotWords::along_rows(int row, int column, int columns, int8_t *out) const {
  const int s = w_.segment, rows = dot_.rows, bits = edgecomp_bits(&w_), shared = edgecomp_blocks_per_group(&w_);
  uint8_t codes[kMostDotRows];
  for (int at = column; at < column + columns;) {
    const int block = at / s, first = at % s, count = std::min(s - first, column + columns - at);
    int8_t *to = out + size_t(at - column) * rows;
    int16_t sums[64 * kMostDotRows];
    for (int stage = 0; stage < w_.stages; ++stage) {
      unpack_lanes(w_, bits, block, stage, row, rows, codes);
      const size_t plane = ((size_t(stage) * w_.groups + block / shared) * s + first) * stride_;
      if (w_.stages > 1) {
        const int16_t *parts = static_cast<const int16_t *>(memory_) + plane;
        for (int e = 0; e < count; ++e)
          for (int r = 0; r < rows; ++r) {
            int16_t &sum = sums[e * rows + r];
            sum = int16_t((stage ? sum : 0) + parts[e * stride_ + codes[r]]);
          }
      } else if (stride_ == kLookedUp) {
        dot_.look_up(static_cast<const int8_t *>(memory_) + plane, count, codes, to);
      } else if (words_) {
        const int8_t *words = static_cast<const int8_t *>(memory_) + size_t(block / shared) * s * w_.codewords + first;
        for (int e = 0; e < count; ++e)
          for (int r = 0; r < rows; ++r) to[e * rows + r] = words[size_t(codes[r]) * s + e];
      } else {
        const int8_t *words = static_cast<const int8_t *>(memory_) + plane;
        for (int e = 0; e < count; ++e)
          for (int r = 0; r < rows; ++r) to[e * rows + r] = words[e * stride_ + codes[r]];
      }
    }
    if (w_.stages > 1)
      for (int i = 0; i < count * rows; ++i) to[i] = whole(sums[i]);
    at += count;
  }
}

void DotWords::down_columns(int row, int column, int columns, int8_t *out) const {
  const int s = w_.segment, rows = dot_.rows, bits = edgecomp_bits(&w_), shared = edgecomp_blocks_per_group(&w_);
  const int last = std::min(row + rows, w_.rows);
  std::fill_n(out + 0, size_t(columns) * rows, int8_t(0));
  uint8_t codes[kColumns];
  for (int block = row / s; block * s < last; ++block) {
    int16_t sums[kColumns * kMostDotRows];
    const int begin = std::max(row, block * s), end = std::min(last, (block + 1) * s);
    for (int stage = 0; stage < w_.stages; ++stage) {
      unpack_lanes(w_, bits, block, stage, column, columns, codes);
      for (int at = begin; at < end; ++at) {
        const size_t plane = ((size_t(stage) * w_.groups + block / shared) * s + at % s) * stride_;
        if (w_.stages > 1) {
          const int16_t *parts = static_cast<const int16_t *>(memory_) + plane;
          for (int c = 0; c < columns; ++c) {
            int16_t &sum = sums[c * rows + (at - row)];
            sum = int16_t((stage ? sum : 0) + parts[codes[c]]);
          }
        } else {
          const int8_t *words = static_cast<const int8_t *>(memory_) + plane;
          for (int c = 0; c < columns; ++c) out[c * rows + (at - row)] = words[codes[c]];
        }
      }
    }
    if (w_.stages > 1)
      for (int c = 0; c < columns; ++c)
        for (int at = begin; at < end; ++at) out[c * rows + (at - row)] = whole(sums[c * rows + (at - row)]);
  }
}

}  // namespace edgecomp
