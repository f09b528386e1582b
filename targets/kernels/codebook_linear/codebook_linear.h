/* y = W x (+ bias), W being codes (coded_matrix.h). `x` is batch x columns, `y` is batch x rows, both row-major fp32.
 *
 * Instead of decoding W, every segment of x is multiplied once with all codewords of its block; an output then is a
 * sum of such products, one per code, looked up. `variants.inc` lists the implementations.
 */
#ifndef EDGECOMP_CODEBOOK_LINEAR_H
#define EDGECOMP_CODEBOOK_LINEAR_H

#include "../coded_matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  const char *name;
  /* 1 if this processor and matrix suit the variant. */
  int (*supports)(const edgecomp_matrix *w);
  /* Bytes of scratch memory that `run` needs, aligned to 64. */
  size_t (*scratch_bytes)(const edgecomp_matrix *w);
  void (*run)(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *scratch);
  /* Error bound of one looked-up product, relative to the largest product of that input: 0 if they are exact. */
  float product_error;
} edgecomp_linear_variant;

/* All variants, the fastest first; the last one takes every valid matrix. Ends with NULL. */
extern const edgecomp_linear_variant *const edgecomp_linear_variants[];

/* The first variant that supports `w`; NULL if `w` is not valid. */
const edgecomp_linear_variant *edgecomp_linear_select(const edgecomp_matrix *w);

/* The plain twin of all variants: decodes every weight and multiplies, no tables, no scratch memory. For tests. */
void edgecomp_linear_reference(const edgecomp_matrix *w, const float *x, int64_t batch, float *y);

#ifdef __cplusplus
}
#endif
#endif
