/* y = W x (+ bias, ReLU), W being codes (coded_matrix.h). `x` is batch x columns, `y` is batch x rows, row-major fp32.
 *
 * Codes of 4 bits: every segment of x is multiplied once with all 16 codewords of its block; an output is a sum of such
 * products, one per code, looked up (lookup16.h). Other codes: the same with tables in fp32 for few inputs, and for many
 * inputs the weights of some rows at a time are decoded and multiplied (exact.cc).
 */
#ifndef EDGECOMP_CODEBOOK_LINEAR_H
#define EDGECOMP_CODEBOOK_LINEAR_H

#include "../coded_matrix.h"
#include "../threads.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of scratch memory, aligned to 64, for a valid `w`. */
size_t edgecomp_linear_scratch_bytes(const edgecomp_matrix *w, int64_t batch);

/* `threads` may be NULL: then the calling thread does all. */
void edgecomp_linear_run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *scratch,
                         const edgecomp_threads *threads);

/* The plain twin: decodes every weight and multiplies, no tables, no scratch memory. For tests. */
void edgecomp_linear_reference(const edgecomp_matrix *w, const float *x, int64_t batch, float *y);

#ifdef __cplusplus
}
#endif
#endif
