/* A matrix whose entries are codes into codebooks: W = sum over stages of codebook[code]. No runtime is needed to use
 * these kernels: raw pointers in, raw pointers out, nothing allocated.
 *
 * Codes form a grid of blocks x lanes. With axis 0 a block is a segment of `segment` columns and a lane is a row; with
 * axis 1 a block is a segment of rows and a lane is a column. Lanes are cut into tiles of `tile`, the last one padded.
 * Memory order: tile, block, stage; one such cell holds `tile` codes, split into bit planes of widths 8, 4, 2, 1 (those
 * that add up to the bits of a code, lowest bits in the widest plane). In a plane of width w, lane l of the tile is in
 * byte l mod (tile*w/8), shifted left by w*(l div (tile*w/8)).
 *
 * Codebooks have the order stage, group, element of the segment, codeword: what one input value is multiplied with
 * lies side by side. A group serves ceil(blocks/groups) neighbouring blocks.
 */
#ifndef EDGECOMP_CODED_MATRIX_H
#define EDGECOMP_CODED_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t rows, columns;    /* shape of W */
  int32_t axis;             /* 0: segments along rows, 1: down columns */
  int32_t tile;             /* lanes per tile: 8, 16, 32, 64 or 128 */
  int32_t stages, groups;   /* codes per segment; codebooks per stage */
  int32_t segment;          /* s, weights per code */
  int32_t codewords;        /* k, at most 256 */
  const uint8_t *codes;     /* edgecomp_codes_bytes() bytes */
  const void *codebook;     /* fp16 or fp32, edgecomp_codebook_elements() of them */
  int32_t codebook_is_half;
  const float *scale;       /* one factor per row, or NULL */
  const float *bias;        /* one summand per row, or NULL */
  int32_t table_bits;       /* products of inputs and codewords are looked up as integers of 8 or 16 bits, or as fp32 (32);
                               EDGECOMP_DOT: none are, see codebook_dot.h */
  int32_t table_group;      /* neighbouring tables that share the scale of their integers: 16, 32 or 64 */
  int32_t relu;             /* 1: negative outputs become 0 */
} edgecomp_matrix;

#define EDGECOMP_DOT 0 /* of `table_bits`: weights are decoded to int8 and multiplied with inputs of int8 */
#define EDGECOMP_MOST_DOT_COLUMNS 65536

/* Values of one tensor, at most: sums and products of a few such numbers then stay far from 2^63. */
#define EDGECOMP_MOST_ELEMENTS ((int64_t)1 << 40)

/* a * b of sizes that come from a file; -1 if one is negative, or the product above EDGECOMP_MOST_ELEMENTS. */
static inline int64_t edgecomp_product(int64_t a, int64_t b) {
  if (a < 0 || b < 0 || (b > 0 && a > EDGECOMP_MOST_ELEMENTS / b)) return -1;
  return a * b;
}

static inline int32_t edgecomp_divide_up(int32_t a, int32_t b) { return (int32_t)(((int64_t)a + b - 1) / b); }

/* Bits of one code: 16 codewords -> 4. */
static inline int32_t edgecomp_bits(const edgecomp_matrix *w) {
  int32_t bits = 1;
  while ((1 << bits) < w->codewords) ++bits;
  return bits;
}

static inline int32_t edgecomp_blocks(const edgecomp_matrix *w) {
  return edgecomp_divide_up(w->axis == 0 ? w->columns : w->rows, w->segment);
}

static inline int32_t edgecomp_lanes(const edgecomp_matrix *w) { return w->axis == 0 ? w->rows : w->columns; }

static inline int32_t edgecomp_blocks_per_group(const edgecomp_matrix *w) {
  return edgecomp_divide_up(edgecomp_blocks(w), w->groups);
}

/* Bytes of one cell: `tile` codes. */
static inline size_t edgecomp_cell_bytes(const edgecomp_matrix *w) { return (size_t)w->tile * edgecomp_bits(w) / 8; }

/* 64 bits hold this and the next for every matrix that is valid, also where pointers have 32. */
static inline uint64_t edgecomp_codes_bytes(const edgecomp_matrix *w) {
  return (uint64_t)edgecomp_divide_up(edgecomp_lanes(w), w->tile) * edgecomp_blocks(w) * w->stages *
         edgecomp_cell_bytes(w);
}

static inline uint64_t edgecomp_codebook_elements(const edgecomp_matrix *w) {
  return (uint64_t)w->stages * w->groups * w->segment * w->codewords;
}

/* 1 if the numbers of `w` make sense together; says nothing about the pointers. Every code a buffer can hold is then
 * either below `codewords` or reads as the last codeword, so that no content of a file can lead outside a table. */
static inline int edgecomp_matrix_is_valid(const edgecomp_matrix *w) {
  return w->rows > 0 && w->columns > 0 && edgecomp_product(w->rows, w->columns) > 0 && (w->axis == 0 || w->axis == 1) &&
         (w->tile == 8 || w->tile == 16 || w->tile == 32 || w->tile == 64 || w->tile == 128) && w->stages > 0 &&
         w->stages <= 16 && w->groups > 0 && w->segment > 0 && w->segment <= 64 && w->codewords >= 2 &&
         w->codewords <= 256 && w->groups <= edgecomp_blocks(w) &&
         (w->table_bits == EDGECOMP_DOT || w->table_bits == 8 || w->table_bits == 16 || w->table_bits == 32) &&
         (w->table_group == 16 || w->table_group == 32 || w->table_group == 64) && (w->relu == 0 || w->relu == 1);
}

#ifdef __cplusplus
}
#endif
#endif
