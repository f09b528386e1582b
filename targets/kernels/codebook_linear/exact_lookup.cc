// Any k, s, axis and number of stages, in fp32 and without SIMD: the fallback.
//
// Axis 0: products of a segment of x with its codewords form a table, and each row adds the entry its code names.
// Axis 1: columns of equal code are added up first, then the sums are multiplied with the codewords.
#include "common.h"

using namespace edgecomp;

namespace {

void along_rows(const edgecomp_matrix &w, const float *x, float *y) {
  const int bits = edgecomp_bits(&w), blocks = edgecomp_blocks(&w), tiles = edgecomp_divide_up(w.rows, w.tile);
  float table[256];
  uint8_t codes[32];
  std::fill(y, y + w.rows, 0.0f);
  for (int block = 0; block < blocks; ++block) {
    const float *segment = x + size_t(block) * w.segment;
    const int length = std::min(w.segment, w.columns - block * w.segment);
    for (int stage = 0; stage < w.stages; ++stage) {
      std::fill(table, table + w.codewords, 0.0f);
      for (int e = 0; e < length; ++e)
        for (int c = 0; c < w.codewords; ++c) table[c] += segment[e] * codebook_value(w, stage, block, e, c);
      for (int tile = 0; tile < tiles; ++tile) {
        unpack_cell(w, cell(w, tile, block, stage), bits, codes);
        float *out = y + tile * w.tile;
        const int lanes = std::min(w.tile, w.rows - tile * w.tile);
        for (int lane = 0; lane < lanes; ++lane) out[lane] += table[codes[lane]];
      }
    }
  }
  for (int row = 0; row < w.rows; ++row) y[row] = scaled(w, row, y[row]);
}

void down_columns(const edgecomp_matrix &w, const float *x, float *y) {
  const int bits = edgecomp_bits(&w), blocks = edgecomp_blocks(&w), tiles = edgecomp_divide_up(w.columns, w.tile);
  float sums[256];
  uint8_t codes[32];
  std::fill(y, y + w.rows, 0.0f);
  for (int block = 0; block < blocks; ++block) {
    float *out = y + size_t(block) * w.segment;
    const int length = std::min(w.segment, w.rows - block * w.segment);
    for (int stage = 0; stage < w.stages; ++stage) {
      std::fill(sums, sums + w.codewords, 0.0f);
      for (int tile = 0; tile < tiles; ++tile) {
        unpack_cell(w, cell(w, tile, block, stage), bits, codes);
        const float *in = x + tile * w.tile;
        const int lanes = std::min(w.tile, w.columns - tile * w.tile);
        for (int lane = 0; lane < lanes; ++lane) sums[codes[lane]] += in[lane];
      }
      for (int e = 0; e < length; ++e)
        for (int c = 0; c < w.codewords; ++c) out[e] += sums[c] * codebook_value(w, stage, block, e, c);
    }
  }
  for (int row = 0; row < w.rows; ++row) y[row] = scaled(w, row, y[row]);
}

void run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *) {
  for (int64_t b = 0; b < batch; ++b)
    (w->axis == 0 ? along_rows : down_columns)(*w, x + b * w->columns, y + b * w->rows);
}

}  // namespace

extern "C" const edgecomp_linear_variant edgecomp_linear_exact_lookup = {
    "exact_lookup", edgecomp_matrix_is_valid, [](const edgecomp_matrix *) { return size_t(0); }, run, 0};
