// Codes of 4 bits: tables of integers.
//
// A table holds the products of one segment of an input with the 16 codewords of a stage, rounded to 8 or 16 bits:
// 16 bytes, or 16 low bytes and 16 high bytes, of round(product / scale) + half of the range. The tables of an input lie
// in the order block, stage, which is that of the cells. `table_group` of them share a scale; sums within a group are
// exact integers, groups are added in fp32.
#pragma once

#include "simd.h"

namespace edgecomp {

inline bool lookup16_fits(const edgecomp_matrix &w) {
  return w.axis == 0 && edgecomp_bits(&w) == 4 && w.tile >= 32 && has_tables(w.table_bits);
}

size_t lookup16_scratch_bytes(const edgecomp_matrix &w, int64_t batch);
void lookup16_linear(const edgecomp_matrix &w, const float *x, int64_t batch, float *y, void *scratch,
                     const edgecomp_threads *threads);

}  // namespace edgecomp
