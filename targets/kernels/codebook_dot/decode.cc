// From codes to int8.
#include "dot.h"

namespace edgecomp {
namespace {

constexpr int kColumns = 64;  // decoded at a time

// Reads codes of `count` lanes from `first` on: eight at a time where they fill whole parts of a tile.
class LaneReader {
 public:
  LaneReader(const edgecomp_matrix &w, int first, int count)
      : w_(w), bits_(edgecomp_bits(&w)), first_(first), count_(count),
        lanes_(edgecomp_divide_up(edgecomp_lanes(&w), w.tile) * w.tile) {
    whole_ = count % 8 == 0 && first % count == 0 && w.tile % count == 0 && first < lanes_;
    for (int width = 8; width >= 1; width /= 2) whole_ = whole_ && !((bits_ & width) && w.tile * width / 8 < count);
    clamp_ = w.codewords < 1 << bits_;
  }

  // Whether codes are nibbles of bytes side by side, those of the next block `pitch` further on.
  bool is_shifted() const { return whole_ && bits_ == 4 && !clamp_; }
  // Whether they are bytes.
  bool is_bytes() const { return whole_ && bits_ == 8 && !clamp_; }
  const uint8_t *bytes(int block) const {
    return cell(w_, first_ / w_.tile, block, 0) + first_ % w_.tile % (w_.tile * bits_ / 8);
  }
  size_t pitch() const { return w_.stages * edgecomp_cell_bytes(&w_); }
  int shift() const { return 4 * (first_ % w_.tile / (w_.tile / 2)); }

  void read(int block, int stage, uint8_t *codes) const {
    if (whole_) read_whole(cell(w_, first_ / w_.tile, block, stage), codes);
    else read_any(block, stage, codes);
    if (clamp_)
      for (int i = 0; i < count_; ++i) codes[i] = std::min<int>(codes[i], w_.codewords - 1);
  }

 private:
  // Eight lanes at a time: none of them crosses a byte.
  void read_whole(const uint8_t *bytes, uint8_t *codes) const {
    const int lane = first_ % w_.tile;
    uint64_t found[kColumns / 8] = {};
    for (int width = 8, low = 0; width >= 1; width /= 2) {
      if (!(bits_ & width)) continue;
      const int plane = w_.tile * width / 8, right = width * (lane / plane);
      const uint64_t mask = 0x0101010101010101u * ((1 << width) - 1);
      for (int i = 0; i < count_ / 8; ++i) {
        uint64_t eight;
        std::memcpy(&eight, bytes + lane % plane + 8 * i, 8);
        found[i] |= (eight >> right & mask) << low;
      }
      bytes += plane;
      low += width;
    }
    std::memcpy(codes, found, count_);
  }

  void read_any(int block, int stage, uint8_t *codes) const {
    for (int i = 0; i < count_; ++i) {
      const int lane = first_ + i;
      codes[i] = 0;  // behind the last one
      if (lane < lanes_) codes[i] = uint8_t(code_in_cell(w_, cell(w_, lane / w_.tile, block, stage), bits_, lane % w_.tile));
    }
  }

  const edgecomp_matrix &w_;
  const int bits_, first_, count_, lanes_;
  bool whole_, clamp_;
};

// An element of all codewords as fp32.
void load_plane(const edgecomp_matrix &w, size_t first, float *values) {
  if (!w.codebook_is_half) {
    std::memcpy(values, static_cast<const float *>(w.codebook) + first, sizeof(float) * w.codewords);
    return;
  }
  const uint16_t *halves = static_cast<const uint16_t *>(w.codebook) + first;
  for (int c = 0; c < w.codewords; ++c) values[c] = half_to_float(halves[c]);
}

// Quads of the codewords of all rows: those of codeword `c` are `step` times `c` behind `words`.
template <int rows>
void gather_quads(const uint8_t *codes, const int8_t *words, size_t step, int quads, int8_t *tile) {
  for (int q = 0; q < quads; ++q, words += 4, tile += 4 * rows)
    for (int r = 0; r < rows; ++r) std::memcpy(tile + 4 * r, words + codes[r] * step, 4);
}

void gather_quads(int rows, const uint8_t *codes, const int8_t *words, size_t step, int quads, int8_t *tile) {
  (rows == 8 ? gather_quads<8> : rows == 16 ? gather_quads<16> : gather_quads<32>)(codes, words, step, quads, tile);
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
      float values[256];
      load_plane(w_, (book * s + e) * k, values);
      const size_t to = (book * s + e) * stride_;
      if (w_.stages > 1) {
        int16_t *plane = static_cast<int16_t *>(memory) + to;
        for (int c = 0; c < k; ++c) plane[c] = rounded_part(values[c], inverse);
        std::fill(plane + k, plane + stride_, int16_t(0));
        continue;
      }
      int8_t made[256];
      for (int c = 0; c < k; ++c) made[c] = rounded_word(values[c], inverse);
      if (words_) {
        int8_t *words = static_cast<int8_t *>(memory) + book * s * k + e;
        for (int c = 0; c < k; ++c) words[size_t(c) * s] = made[c];
      } else {
        int8_t *plane = static_cast<int8_t *>(memory) + to;
        std::copy_n(made, k, plane);
        std::fill(plane + k, plane + stride_, int8_t(0));
      }
    }
}

void DotWords::decode(int row, int column, int columns, int quads, int8_t *tile) const {
  const int rows = dot_.rows;
  if (column % 4 == 0 && columns % 4 == 0 && w_.segment % 4 == 0 && by_quads(row, column, columns / 4, tile)) {
    std::fill_n(tile + columns * rows, size_t(4 * quads - columns) * rows, int8_t(0));
    return;
  }
  for (int done = 0; done < 4 * quads; done += kColumns) {
    alignas(64) int8_t made[kColumns * kMostDotRows];
    const int wanted = std::min(kColumns, 4 * quads - done), there = std::clamp(columns - done, 0, wanted);
    if (there) (w_.axis == 0 ? along_rows(row, column + done, there, made) : down_columns(row, column + done, there, made));
    std::fill_n(made + there * rows, size_t(wanted - there) * rows, int8_t(0));
    dot_.interleave(made, wanted / 4, tile + size_t(done) * rows);
  }
}

// Where a quad is part of a codeword, and there is one for it; else false.
bool DotWords::by_quads(int row, int column, int quads, int8_t *tile) const {
  const int s = w_.segment, rows = dot_.rows, shared = edgecomp_blocks_per_group(&w_);
  const LaneReader reader(w_, row, rows);
  const bool few = stride_ == kLookedUp && w_.axis == 0 && w_.stages == 1;
  const bool look_up = few && dot_.look_up_quads && reader.is_shifted();
  if (!words_ && !look_up) return false;
  for (int quad = 0; quad < quads;) {
    const int at = column + 4 * quad, block = at / s, in_block = at % s / 4;
    const int count = std::min(s / 4 - in_block, quads - quad);
    const int8_t *words = static_cast<const int8_t *>(memory_) + size_t(block / shared) * s * stride_;
    int8_t *to = tile + size_t(quad) * 4 * rows;
    if (look_up) {
      // As many blocks as lie whole in what is wanted and share a codebook, or have one each.
      int whole = in_block ? 1 : std::max(1, (quads - quad) / (s / 4));
      if (shared > 1) whole = std::min(whole, shared - block % shared);
      const int here = whole > 1 ? s / 4 : count;
      dot_.look_up_quads({reader.bytes(block), reader.pitch(), reader.shift(), words + in_block * 4 * kLookedUp,
                          shared == 1 ? size_t(s) * kLookedUp : 0, whole, here, to});
      quad += whole * here;
      continue;
    }
    uint8_t read[kMostDotRows];
    const uint8_t *codes = read;
    if (reader.is_bytes()) codes = reader.bytes(block);
    else reader.read(block, 0, read);
    gather_quads(rows, codes, words + 4 * in_block, s, count, to);
    quad += count;
  }
  return true;
}

void DotWords::along_rows(int row, int column, int columns, int8_t *out) const {
  const int s = w_.segment, rows = dot_.rows, shared = edgecomp_blocks_per_group(&w_);
  const LaneReader reader(w_, row, rows);
  uint8_t codes[kMostDotRows];
  for (int at = column; at < column + columns;) {
    const int block = at / s, first = at % s, count = std::min(s - first, column + columns - at);
    int8_t *to = out + size_t(at - column) * rows;
    int16_t sums[64 * kMostDotRows];
    for (int stage = 0; stage < w_.stages; ++stage) {
      reader.read(block, stage, codes);
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
  const int s = w_.segment, rows = dot_.rows, shared = edgecomp_blocks_per_group(&w_);
  const LaneReader reader(w_, column, columns);
  const int last = std::min(row + rows, w_.rows);
  std::fill_n(out, size_t(columns) * rows, int8_t(0));
  uint8_t codes[kColumns];
  for (int block = row / s; block * s < last; ++block) {
    int16_t sums[kColumns * kMostDotRows];
    const int begin = std::max(row, block * s), end = std::min(last, (block + 1) * s);
    for (int stage = 0; stage < w_.stages; ++stage) {
      reader.read(block, stage, codes);
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
