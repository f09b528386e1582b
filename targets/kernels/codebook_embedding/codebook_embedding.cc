// Decodes the rows that are asked for, and no others: so few that a plain loop is fast enough.
#include "codebook_embedding.h"

#include "../codebook_linear/common.h"

using namespace edgecomp;

int edgecomp_embedding_run(const edgecomp_matrix *w, const int64_t *index, int64_t count, float *y) {
  const int bits = edgecomp_bits(w);
  for (int64_t i = 0; i < count; ++i, y += w->columns) {
    if (index[i] < 0 || index[i] >= w->rows) return 0;
    const int row = int(index[i]);
    std::memset(y, 0, sizeof(float) * w->columns);
    for (int column = 0; column < w->columns; ++column) {
      const int split = w->axis == 0 ? column : row, lane = w->axis == 0 ? row : column;
      const int block = split / w->segment;
      for (int stage = 0; stage < w->stages; ++stage) {
        const int code = code_in_cell(*w, cell(*w, lane / w->tile, block, stage), bits, lane % w->tile);
        y[column] += codebook_value(*w, stage, block, split % w->segment, code);
      }
      if (w->scale) y[column] *= w->scale[row];
    }
  }
  return 1;
}
