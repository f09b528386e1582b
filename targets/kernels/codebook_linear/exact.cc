// Few inputs: products of segments of x with their codewords form tables that all rows share (axis 0), or columns of equal
// code are added up first and the sums are multiplied with the codewords (axis 1).
// Many inputs: the weights of some rows and columns at a time are decoded and multiplied with all inputs.
#include "exact.h"

#include "simd.h"

namespace edgecomp {
namespace {

constexpr int kFew = 4;               // inputs; with more, decoding costs less than looking up for each
constexpr int kTableFloats = 4096;    // of the tables made at a time: they stay in the L1 cache, as
constexpr int kDecodedColumns = 64;   // the weights decoded at a time do
constexpr int kDecodedRows = 128;
constexpr int kInputs = 96;           // that share them

// Element `e` of the codewords of a block, as fp32: (codewords) values.
void load_codewords(const edgecomp_matrix &w, int stage, int block, int e, float *words) {
  const size_t index = codebook_index(w, stage, block) + size_t(e) * w.codewords;
  const int count = w.codewords;
  if (!w.codebook_is_half) {
    std::copy_n(static_cast<const float *>(w.codebook) + index, count, words);
    return;
  }
  const uint16_t *halves = static_cast<const uint16_t *>(w.codebook) + index;
  for (int c = 0; c < count; ++c) words[c] = half_to_float(halves[c]);
}

// Outputs of the rows of some tiles.
void along_rows(const edgecomp_matrix &w, const float *x, float *y, int first_tile, int last_tile) {
  const int bits = edgecomp_bits(&w), tables = edgecomp_blocks(&w) * w.stages;
  const size_t cell_bytes = edgecomp_cell_bytes(&w);
  const int count = w.codewords, together = kTableFloats / count;
  float table[kTableFloats];
  const float zeros[1] = {};  // the table of those that are not there
  const uint8_t none[kMostLanes] = {};
  const int first_row = first_tile * w.tile, last_row = std::min(last_tile * w.tile, w.rows);
  std::fill(y + first_row, y + last_row, 0.0f);
  for (int begin = 0; begin < tables; begin += together) {
    const int end = std::min(begin + together, tables);
    for (int t = begin; t < end; ++t) {
      const int block = t / w.stages, stage = t % w.stages;
      float *products = table + (t - begin) * count;
      std::fill(products, products + count, 0.0f);
      const int length = std::min(w.segment, w.columns - block * w.segment);
      for (int e = 0; e < length; ++e) {
        float words[256];
        load_codewords(w, stage, block, e, words);
        const float input = x[block * w.segment + e];
        for (int c = 0; c < count; ++c) products[c] += input * words[c];
      }
    }
    for (int tile = first_tile; tile < last_tile; ++tile) {
      float *out = y + tile * w.tile;
      const int lanes = std::min(w.tile, w.rows - tile * w.tile);
      constexpr int kAtOnce = 4;  // sums are then loaded and stored for every fourth table alone
      for (int t = begin; t < end; t += kAtOnce) {
        uint8_t unpacked[kAtOnce][kMostLanes];
        const uint8_t *codes[kAtOnce];
        const float *products[kAtOnce];
        for (int i = 0; i < kAtOnce; ++i) {
          const bool there = t + i < end;
          products[i] = there ? table + (t + i - begin) * count : zeros;
          codes[i] = there ? w.codes + (size_t(tile) * tables + t + i) * cell_bytes : none;
          if (there && count != 256) unpack_cell(w, codes[i], bits, unpacked[i]), codes[i] = unpacked[i];
        }
        for (int lane = 0; lane < lanes; ++lane)
          out[lane] += (products[0][codes[0][lane]] + products[1][codes[1][lane]]) +
                       (products[2][codes[2][lane]] + products[3][codes[3][lane]]);
      }
    }
  }
  finish_rows(w, first_row, last_row - first_row, y + first_row, y + first_row);
}

// Outputs of the rows of a block.
void down_columns(const edgecomp_matrix &w, const float *x, float *y, int block) {
  const int bits = edgecomp_bits(&w), tiles = edgecomp_divide_up(w.columns, w.tile);
  const int first_row = block * w.segment, length = std::min(w.segment, w.rows - first_row);
  std::fill(y + first_row, y + first_row + length, 0.0f);
  for (int stage = 0; stage < w.stages; ++stage) {
    float sums[256] = {};
    for (int tile = 0; tile < tiles; ++tile) {
      uint8_t codes[kMostLanes];
      unpack_cell(w, cell(w, tile, block, stage), bits, codes);
      const float *in = x + tile * w.tile;
      const int lanes = std::min(w.tile, w.columns - tile * w.tile);
      for (int lane = 0; lane < lanes; ++lane) sums[codes[lane]] += in[lane];
    }
    for (int e = 0; e < length; ++e) {
      float words[256], sum = 0;
      load_codewords(w, stage, block, e, words);
      for (int c = 0; c < w.codewords; ++c) sum += sums[c] * words[c];
      y[first_row + e] += sum;
    }
  }
  finish_rows(w, first_row, length, y + first_row, y + first_row);
}

// Some weights: entry (column, row) is at values[column * kDecodedRows + row], both counted from the first.
struct Decoded {
  int first_row, rows, first_column, columns;
  alignas(64) float values[kDecodedColumns * kDecodedRows];
};

// Sets the values from the codes of the blocks and tiles that reach into them.
void decode(const edgecomp_matrix &w, Decoded &to) {
  const bool rows_are_lanes = w.axis == 0;
  const int bits = edgecomp_bits(&w);
  const int split = rows_are_lanes ? to.first_column : to.first_row, splits = rows_are_lanes ? to.columns : to.rows;
  const int lane = rows_are_lanes ? to.first_row : to.first_column, lanes = rows_are_lanes ? to.rows : to.columns;
  const int split_step = rows_are_lanes ? kDecodedRows : 1, lane_step = rows_are_lanes ? 1 : kDecodedRows;
  for (int c = 0; c < to.columns; ++c) std::fill_n(to.values + c * kDecodedRows, kDecodedRows, 0.0f);
  float words[256];
  size_t words_of = SIZE_MAX;  // where in the codebooks they are from
  for (int block = split / w.segment; block * w.segment < split + splits; ++block) {
    const int first = std::max(0, split - block * w.segment), last = std::min(w.segment, split + splits - block * w.segment);
    for (int stage = 0; stage < w.stages; ++stage) {
      for (int tile = lane / w.tile; tile * w.tile < lane + lanes; ++tile) {
        uint8_t codes[kMostLanes];
        unpack_cell(w, cell(w, tile, block, stage), bits, codes);
        const int begin = std::max(lane, tile * w.tile), end = std::min(lane + lanes, (tile + 1) * w.tile);
        const uint8_t *code = codes + (begin - tile * w.tile);
        for (int e = first; e < last; ++e) {
          const size_t index = codebook_index(w, stage, block) + size_t(e) * w.codewords;
          if (index != words_of) load_codewords(w, stage, block, e, words);
          words_of = index;
          float *out = to.values + (block * w.segment + e - split) * split_step + (begin - lane) * lane_step;
          for (int i = 0; i < end - begin; ++i) out[i * lane_step] += words[code[i]];
        }
      }
    }
  }
}

// Outputs of kDecodedRows rows for up to kInputs inputs.
void decoded_rows(const edgecomp_matrix &w, const float *x, int inputs, float *y, int first_row) {
  Decoded decoded;
  decoded.first_row = first_row, decoded.rows = std::min(kDecodedRows, w.rows - first_row);
  alignas(64) float sums[kInputs * kDecodedRows];
  std::fill(sums, sums + inputs * kDecodedRows, 0.0f);
  for (int column = 0; column < w.columns; column += kDecodedColumns) {
    decoded.first_column = column, decoded.columns = std::min(kDecodedColumns, w.columns - column);
    decode(w, decoded);
    for (int input = 0; input < inputs; input += kPanelInputs)
      for (int row = 0; row < decoded.rows; row += kPanelRows)
        simd_best().multiply({decoded.values + row, kDecodedRows, decoded.columns, std::min(kPanelInputs, inputs - input),
                              x + size_t(input) * w.columns + column, size_t(w.columns),
                              sums + input * kDecodedRows + row, kDecodedRows});
  }
  for (int input = 0; input < inputs; ++input)
    finish_rows(w, first_row, decoded.rows, sums + input * kDecodedRows, y + size_t(input) * w.rows + first_row);
}

}  // namespace

void exact_linear(const edgecomp_matrix &w, const float *x, int64_t batch, float *y, const edgecomp_threads *threads) {
  if (batch >= kFew) {
    for (int64_t b = 0; b < batch; b += kInputs)
      for_each(threads, edgecomp_divide_up(w.rows, kDecodedRows), [&](size_t i) {
        const int inputs = int(std::min<int64_t>(kInputs, batch - b));
        decoded_rows(w, x + b * w.columns, inputs, y + b * w.rows, int(i) * kDecodedRows);
      });
    return;
  }
  for (int64_t b = 0; b < batch; ++b, x += w.columns, y += w.rows) {
    if (w.axis == 0) {
      const int tiles = edgecomp_divide_up(w.rows, w.tile), parts = std::min(tiles, count_threads(threads));
      for_each(threads, parts, [&](size_t part) {
        along_rows(w, x, y, int64_t(tiles) * part / parts, int64_t(tiles) * (part + 1) / parts);
      });
    } else {
      for_each(threads, edgecomp_blocks(&w), [&](size_t block) { down_columns(w, x, y, int(block)); });
    }
  }
}

}  // namespace edgecomp
