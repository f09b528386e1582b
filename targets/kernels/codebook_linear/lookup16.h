// Shared by the SIMD variants for 16 codewords: the layout of the tables, and what the SIMD code must be given.
//
// A "table" holds the products of one segment of x with its 16 codewords, one byte each. Tables are made in groups of
// `kGroup` with a scale of their own; sums within a group are exact integers, groups are added in fp32.
#pragma once

#include "common.h"

namespace edgecomp {

constexpr int kGroup = 64;

inline int lookup16_tables(const edgecomp_matrix &w) { return edgecomp_blocks(&w) * w.stages; }

inline int lookup16_groups(const edgecomp_matrix &w) { return edgecomp_divide_up(lookup16_tables(w), kGroup); }

inline int lookup16_fits(const edgecomp_matrix *w) {
  return edgecomp_matrix_is_valid(w) && w->axis == 0 && w->codewords == 16 && w->tile == 32;
}

// Scratch memory: bytes of all tables (padded to whole groups), then a scale per group, then one group in fp32.
struct Lookup16Scratch {
  uint8_t *tables;
  float *scales;
  float *products;

  Lookup16Scratch(const edgecomp_matrix &w, void *scratch)
      : tables(static_cast<uint8_t *>(scratch)),
        scales(reinterpret_cast<float *>(tables + size_t(lookup16_groups(w)) * kGroup * 16)),
        products(scales + edgecomp_divide_up(lookup16_groups(w), 16) * 16) {}

  static size_t bytes(const edgecomp_matrix *w) {
    const size_t groups = lookup16_groups(*w);
    return groups * kGroup * 16 + (groups + 15) / 16 * 64 + kGroup * 16 * sizeof(float);
  }
};

}  // namespace edgecomp
