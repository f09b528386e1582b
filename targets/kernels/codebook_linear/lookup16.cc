#include "lookup16.h"

namespace edgecomp {

size_t lookup16_scratch_bytes(const edgecomp_matrix &w, int64_t batch) {
  return size_t(std::min<int64_t>(batch, kMostInputs)) * TableShape(w).bytes();
}

void lookup16_linear(const edgecomp_matrix &w, const float *x, int64_t batch, float *y, void *scratch,
                     const edgecomp_threads *threads) {
  const Simd &simd = simd_best();
  const TableShape shape(w);
  Run run = {w.codes, w.tile / 2, shape, 0, {}, nullptr};
  uint8_t *tables[kMostInputs];
  for (int i = 0; i < std::min<int64_t>(batch, kMostInputs); ++i)
    run.tables[i] = tables[i] = static_cast<uint8_t *>(scratch) + i * shape.bytes();
  const int groups = shape.groups(), parts = count_threads(threads) < 2 ? 1 : std::min(groups, 4 * count_threads(threads));
  for (int64_t first = 0; first < batch; first += run.inputs) {
    run.inputs = int(std::min<int64_t>(simd.inputs, batch - first));
    for_each(threads, size_t(run.inputs) * parts, [&](size_t i) {
      const int input = int(i) / parts, part = int(i) % parts;
      const int begin = int64_t(groups) * part / parts, end = int64_t(groups) * (part + 1) / parts;
      simd.build(w, x + (first + input) * w.columns, begin, end, tables[input]);
    });
    for_each(threads, edgecomp_divide_up(w.rows, w.tile), [&](size_t tile) {
      alignas(64) float sums[kMostInputs * kMostLanes];
      std::fill(sums, sums + run.inputs * w.tile, 0.0f);
      Run part = run;
      part.codes = cell(w, int(tile), 0, 0);
      part.sums = sums;
      simd.accumulate(part);
      const int row = int(tile) * w.tile, rows = std::min(w.tile, w.rows - row);
      for (int input = 0; input < run.inputs; ++input)
        finish_rows(w, row, rows, sums + input * w.tile, y + (first + input) * w.rows + row);
    });
  }
}

}  // namespace edgecomp
