/* The steps of an LSTM, a GRU or a plain RNN, with what the inputs add to the gates already computed (`xp`):
 *
 *   gates = W h + bias      W is the product of up to EDGECOMP_FACTORS factors, the first one meets h
 *   LSTM, gates i f g o:    c = sigmoid(f) c + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)
 *   GRU, gates r z n:       h = (1 - sigmoid(z)) n + sigmoid(z) h,  n = tanh(xp_n + sigmoid(r) gates_n)
 *   RNN:                    h = tanh(gates) or max(gates, 0)
 *
 * where every gate but the n of a GRU has xp added to it. A factor is stored as codes (coded_matrix.h), in fp32, or as
 * integers of 8, 4 or 2 bits with a scale per row, for which what it multiplies is rounded to 8 bits per row.
 *
 * xp: steps x batch x gates*hidden. h0, c0: batch x hidden. y: the h of every step, steps x batch x hidden; of an LSTM the
 * last c follows. All fp32, row-major.
 */
#ifndef EDGECOMP_RECURRENCE_H
#define EDGECOMP_RECURRENCE_H

#include "../coded_matrix.h"
#include "../threads.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EDGECOMP_LSTM, EDGECOMP_GRU, EDGECOMP_RNN_TANH, EDGECOMP_RNN_RELU };
enum { EDGECOMP_FACTORS = 4, EDGECOMP_FACTOR_SETTINGS = 14, EDGECOMP_MOST_SETTINGS = 3 + 4 * 14 };

typedef struct {
  int32_t bits;      /* 0: codes. 32: fp32. 8, 4, 2: integers, packed side by side, the first in the lowest bits */
  edgecomp_matrix w; /* of all but codes: only rows, columns, scale, bias, and `codes`, the weights row by row */
} edgecomp_factor;

typedef struct {
  int32_t kind, reverse; /* reverse: the last step comes first */
  int32_t steps, batch, hidden;
  int32_t count;
  edgecomp_factor factors[EDGECOMP_FACTORS];
} edgecomp_recurrence;

/* A tensor that is stored. */
typedef struct {
  const void *data;
  int64_t elements;
  int32_t element_bytes;
} edgecomp_constant;

static inline int32_t edgecomp_recurrence_gates(int32_t kind) {
  return kind == EDGECOMP_LSTM ? 4 : kind == EDGECOMP_GRU ? 3 : 1;
}

/* Fills `r` from what a file holds; 0 if it does not fit together.
 *
 * settings: kind, reverse, count, then per factor: bits, rows, columns, axis, tile, stages, groups, segment, codewords,
 * codebook_is_half, table_bits, table_group, 1 if it has a scale, 1 if it has a bias.
 * constants, per factor: codes, codebook [, scale] [, bias]; or weights [, scale] [, bias].
 * shape: steps, batch, gates*hidden, hidden. */
int edgecomp_recurrence_read(const int32_t *settings, size_t settings_count, const edgecomp_constant *constants,
                             size_t constants_count, const int32_t shape[4], edgecomp_recurrence *r);

/* Elements of y. */
static inline int64_t edgecomp_recurrence_outputs(const edgecomp_recurrence *r) {
  return ((int64_t)r->steps + (r->kind == EDGECOMP_LSTM)) * r->batch * r->hidden;
}

/* Bytes of scratch memory, aligned to 64, for what was read. */
size_t edgecomp_recurrence_scratch_bytes(const edgecomp_recurrence *r);

/* c0 is NULL unless it is an LSTM. `threads` may be NULL: then the calling thread does all. */
void edgecomp_recurrence_run(const edgecomp_recurrence *r, const float *xp, const float *h0, const float *c0, float *y,
                             void *scratch, const edgecomp_threads *threads);

/* The plain twin, for tests. */
void edgecomp_recurrence_reference(const edgecomp_recurrence *r, const float *xp, const float *h0, const float *c0,
                                   float *y);

#ifdef __cplusplus
}
#endif
#endif
