#include "codebook_linear.h"

#include "../codebook_dot/codebook_dot.h"
#include "exact.h"
#include "lookup16.h"

using namespace edgecomp;

size_t edgecomp_linear_scratch_bytes(const edgecomp_matrix *w, int64_t batch) {
  if (edgecomp_dot_fits(w)) return edgecomp_dot_linear_scratch_bytes(w, batch);
  return lookup16_fits(*w) ? lookup16_scratch_bytes(*w, batch) : 0;
}

void edgecomp_linear_run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *scratch,
                         const edgecomp_threads *threads) {
  if (edgecomp_dot_fits(w))
    edgecomp_dot_linear_run(w, x, batch, y, scratch, threads);
  else if (lookup16_fits(*w))
    lookup16_linear(*w, x, batch, y, scratch, threads);
  else
    exact_linear(*w, x, batch, y, threads);
}
