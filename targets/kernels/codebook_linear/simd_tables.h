// Making the tables, for every SIMD implementation. Needs EDGECOMP_SIMD, the attribute of functions for the processor.
//
// `Sixteen` is sixteen floats in registers: zero(), load(p), load_half(p), store(p), add_product(x, words), most(other)
// (the larger magnitudes), largest(), times(f), to_bytes(p) (round, add 128), to_planes(p) (round, add 32768, low bytes
// before high bytes).
#pragma once

#include "simd.h"

namespace edgecomp {
namespace {

template <class Sixteen, bool half, bool padded>
EDGECOMP_SIMD inline Sixteen load_codewords(const void *codebook, size_t index, int count) {
  const uint16_t *halves = static_cast<const uint16_t *>(codebook) + index;
  const float *floats = static_cast<const float *>(codebook) + index;
  if (!padded) return half ? Sixteen::load_half(halves) : Sixteen::load(floats);
  alignas(64) float words[kCodewords];
  for (int c = 0; c < kCodewords; ++c) {
    const int word = std::min(c, count - 1);
    words[c] = half ? half_to_float(halves[word]) : floats[word];
  }
  return Sixteen::load(words);
}

template <class Sixteen, bool half, bool padded>
EDGECOMP_SIMD void build_groups(const edgecomp_matrix &w, const float *x, int first, int last, uint8_t *tables) {
  const TableShape shape(w);
  const float most = shape.planes == 1 ? 127.0f : 32767.0f;
  const int blocks = edgecomp_blocks(&w), shared = edgecomp_blocks_per_group(&w), s = w.segment, k = w.codewords;
  const int stages = w.stages, codebooks = w.groups, columns = w.columns;
  const void *const codebook = w.codebook;
  int block = first * shape.group / stages, stage = first * shape.group % stages;
  int at = block / shared, left = shared - block % shared;  // counted along: divisions would cost as much as the rest
  for (int group = first; group < last; ++group) {
    const int begin = group * shape.group, count = std::min(shape.group, shape.count - begin);
    alignas(64) float products[kMostGroup * kCodewords];
    Sixteen magnitudes = Sixteen::zero();
    for (int i = 0; i < count; ++i) {
      size_t index = (size_t(stage) * codebooks + at) * s * k;
      const float *segment = x + size_t(block) * s;
      const int length = block + 1 < blocks ? s : columns - block * s;
      Sixteen sum = Sixteen::zero();
      for (int e = 0; e < length; ++e, index += k)
        sum.add_product(segment[e], load_codewords<Sixteen, half, padded>(codebook, index, k));
      sum.store(products + i * kCodewords);
      magnitudes = magnitudes.most(sum);
      if (++stage == stages) {
        stage = 0, ++block;
        if (--left == 0) left = shared, ++at;
      }
    }
    const float bound = magnitudes.largest(), inverse = bound > 0 ? most / bound : 0.0f;
    shape.scales(tables)[group] = bound / most;
    uint8_t *table = tables + begin * shape.table_bytes();
    if (shape.planes == 1)
      for (int i = 0; i < count; ++i) Sixteen::load(products + i * kCodewords).times(inverse).to_bytes(table + i * kCodewords);
    else
      for (int i = 0; i < count; ++i) Sixteen::load(products + i * kCodewords).times(inverse).to_planes(table + i * 2 * kCodewords);
  }
}

template <class Sixteen>
EDGECOMP_SIMD void build_tables(const edgecomp_matrix &w, const float *x, int first, int last, uint8_t *tables) {
  const bool padded = w.codewords < kCodewords;
  const auto build = w.codebook_is_half ? (padded ? build_groups<Sixteen, true, true> : build_groups<Sixteen, true, false>)
                                        : (padded ? build_groups<Sixteen, false, true> : build_groups<Sixteen, false, false>);
  build(w, x, first, last, tables);
}

}  // namespace
}  // namespace edgecomp
