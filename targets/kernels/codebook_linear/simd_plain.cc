// Tables of integers in plain C++: where there is no SIMD code, and to compare it with.
#include <cmath>

#include "simd.h"

#ifdef EDGECOMP_PLAIN

namespace edgecomp {
namespace {

void table_products(const edgecomp_matrix &w, const float *x, int t, float *products) {
  const int block = t / w.stages, stage = t % w.stages;
  const float *segment = x + size_t(block) * w.segment;
  const int length = std::min(w.segment, w.columns - block * w.segment);
  std::fill(products, products + kCodewords, 0.0f);
  for (int e = 0; e < length; ++e)
    for (int c = 0; c < kCodewords; ++c)
      products[c] += segment[e] * codebook_value(w, stage, block, e, std::min(c, w.codewords - 1));
}

void build(const edgecomp_matrix &w, const float *x, int first, int last, uint8_t *tables) {
  const TableShape shape(w);
  const float most = shape.planes == 1 ? 127.0f : 32767.0f;
  for (int group = first; group < last; ++group) {
    const int begin = group * shape.group, count = std::min(shape.group, shape.count - begin);
    float products[kMostGroup * kCodewords], bound = 0;
    for (int i = 0; i < count; ++i) table_products(w, x, begin + i, products + i * kCodewords);
    for (int i = 0; i < count * kCodewords; ++i) bound = std::max(bound, std::abs(products[i]));
    shape.scales(tables)[group] = bound / most;
    const float inverse = bound > 0 ? most / bound : 0.0f;
    for (int i = 0; i < count * kCodewords; ++i) {
      const int value = int(std::nearbyint(products[i] * inverse)) + int(most) + 1;
      uint8_t *table = tables + (begin + i / kCodewords) * shape.table_bytes();
      table[i % kCodewords] = uint8_t(value);
      if (shape.planes == 2) table[kCodewords + i % kCodewords] = uint8_t(value >> 8);
    }
  }
}

void accumulate(const Run &run) {
  const int rows = 2 * run.cell, planes = run.shape.planes, half = planes == 1 ? 128 : 32768;
  for (int begin = 0; begin < run.shape.count; begin += run.shape.group) {
    const int count = std::min(run.shape.group, run.shape.count - begin);
    for (int input = 0; input < run.inputs; ++input) {
      for (int row = 0; row < rows; ++row) {
        int sum = -half * count;
        for (int t = begin; t < begin + count; ++t) {
          const uint8_t *table = run.tables[input] + t * run.shape.table_bytes();
          const int byte = run.codes[size_t(t) * run.cell + row % run.cell];
          const int code = row < run.cell ? byte & 15 : byte >> 4;
          sum += table[code] + (planes == 2 ? 256 * table[kCodewords + code] : 0);
        }
        run.sums[input * rows + row] += run.shape.scales(run.tables[input])[begin / run.shape.group] * float(sum);
      }
    }
  }
}

void multiply_panel(const Panel &panel) {
  for (int i = 0; i < panel.inputs; ++i)
    for (int c = 0; c < panel.columns; ++c)
      for (int row = 0; row < kPanelRows; ++row)
        panel.sums[i * panel.sums_stride + row] += panel.weights[c * panel.weights_stride + row] * panel.x[i * panel.x_stride + c];
}

}  // namespace

extern const Simd simd_plain = {"plain", [] { return true; }, 1, build, accumulate, multiply_panel};

}  // namespace edgecomp
#endif
