#include "common.h"

using namespace edgecomp;

void edgecomp_linear_reference(const edgecomp_matrix *w, const float *x, int64_t batch, float *y) {
  const int bits = edgecomp_bits(w);
  for (int64_t b = 0; b < batch; ++b) {
    for (int row = 0; row < w->rows; ++row) {
      double sum = 0;
      for (int column = 0; column < w->columns; ++column) {
        const int split = w->axis == 0 ? column : row, lane = w->axis == 0 ? row : column;
        const int block = split / w->segment, element = split % w->segment;
        for (int stage = 0; stage < w->stages; ++stage) {
          const int code = code_in_cell(*w, cell(*w, lane / w->tile, block, stage), bits, lane % w->tile);
          sum += double(codebook_value(*w, stage, block, element, code)) * x[b * w->columns + column];
        }
      }
      y[b * w->rows + row] = finished(*w, row, float(sum));
    }
  }
}
