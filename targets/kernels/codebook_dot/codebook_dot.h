/* Products of a coded matrix with many inputs: codes are decoded to int8 in a tile that stays in the L1 cache, and that is
 * multiplied with inputs of int8 by dot products. Any k, s, axis and number of stages. What it means:
 *
 * A weight is the sum of its codewords, rounded to int8 with one scale for the whole matrix, its largest magnitude (at
 * most) being 127. Inputs are rounded to 0 … 255 with a scale and a zero point for each row of a dense layer, or each
 * image of a convolution. Sums are exact in 32 bits, whatever the processor; scales, bias and ReLU follow in fp32.
 * rounding.h is the definition.
 *
 * codebook_linear and codebook_conv2d call this where `table_bits` is EDGECOMP_DOT.
 */
#ifndef EDGECOMP_CODEBOOK_DOT_H
#define EDGECOMP_CODEBOOK_DOT_H

#include "../codebook_conv2d/codebook_conv2d.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef EDGECOMP_WITHOUT_DOT /* An app whose models do not use it leaves it out. */
static inline int edgecomp_dot_fits(const edgecomp_matrix *w) { return (void)w, 0; }
static inline int edgecomp_dot_conv2d_fits(const edgecomp_conv2d *c, const edgecomp_matrix *w) { return (void)c, (void)w, 0; }
#else
/* 1 if a valid matrix is to be multiplied so; sums of more columns would not fit into 32 bits. */
static inline int edgecomp_dot_fits(const edgecomp_matrix *w) {
  return w->table_bits == EDGECOMP_DOT && w->columns <= EDGECOMP_MOST_DOT_COLUMNS;
}

/* The same of a valid convolution: its padding must not be many times as large as the image. */
int edgecomp_dot_conv2d_fits(const edgecomp_conv2d *c, const edgecomp_matrix *w);
#endif

/* As their namesakes in codebook_linear.h and codebook_conv2d.h. */
size_t edgecomp_dot_linear_scratch_bytes(const edgecomp_matrix *w, int64_t batch);
void edgecomp_dot_linear_run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *scratch,
                             const edgecomp_threads *threads);
size_t edgecomp_dot_conv2d_scratch_bytes(const edgecomp_conv2d *c, const edgecomp_matrix *w);
void edgecomp_dot_conv2d_run(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y, void *scratch,
                             const edgecomp_threads *threads);

/* The plain twins, for tests: the same integers. */
void edgecomp_dot_linear_reference(const edgecomp_matrix *w, const float *x, int64_t batch, float *y);
void edgecomp_dot_conv2d_reference(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y);

#ifdef __cplusplus
}
#endif
#endif
