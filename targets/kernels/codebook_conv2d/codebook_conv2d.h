/* 2-D convolution whose kernel is a coded matrix (coded_matrix.h): a row per output channel, columns in the order
 * (kernel row, kernel column, input channel). Zero padding, one group. Tensors are fp32, NCHW or NHWC.
 *
 * A band of output rows is computed at a time, from the input rows it needs. If all positions of the kernel share one
 * codebook, the products of an input pixel with it are made once, for all positions that see the pixel; else the patches
 * of some output pixels are gathered and given to codebook_linear. Neither the decoded weight nor the patches of the
 * whole map are ever in memory.
 */
#ifndef EDGECOMP_CODEBOOK_CONV2D_H
#define EDGECOMP_CODEBOOK_CONV2D_H

#include "../codebook_linear/codebook_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t batch, channels, height, width; /* of the input */
  int32_t kernel[2], stride[2], padding[2], dilation[2];
  int32_t channels_last; /* 0: NCHW, 1: NHWC, input and output */
} edgecomp_conv2d;

/* Height (dimension 0) or width (1) of the output; not positive if the kernel does not fit into the input. */
static inline int32_t edgecomp_conv2d_output(const edgecomp_conv2d *c, int dimension) {
  const int64_t size = dimension == 0 ? c->height : c->width;
  const int64_t span = (int64_t)c->dilation[dimension] * (c->kernel[dimension] - 1) + 1;
  const int64_t free_steps = size + 2 * (int64_t)c->padding[dimension] - span;
  return free_steps < 0 ? 0 : (int32_t)(free_steps / c->stride[dimension] + 1);
}

/* Columns of the coded matrix; -1 if there are too many for any. */
static inline int64_t edgecomp_conv2d_columns(const edgecomp_conv2d *c) {
  const int64_t columns = edgecomp_product(edgecomp_product(c->kernel[0], c->kernel[1]), c->channels);
  return columns > INT32_MAX ? -1 : columns;
}

/* 1 if the convolution makes sense and `w` is a matrix for it. */
int edgecomp_conv2d_is_valid(const edgecomp_conv2d *c, const edgecomp_matrix *w);

/* Bytes of scratch memory, aligned to 64. */
size_t edgecomp_conv2d_scratch_bytes(const edgecomp_conv2d *c, const edgecomp_matrix *w);

/* x: batch x channels x height x width. y: batch x rows x output height x output width; both in the order of `c`.
 * `threads` may be NULL: then the calling thread does all. */
void edgecomp_conv2d_run(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y, void *scratch,
                         const edgecomp_threads *threads);

/* The plain twin, for tests: decodes every weight, no scratch memory. */
void edgecomp_conv2d_reference(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y);

#ifdef __cplusplus
}
#endif
#endif
