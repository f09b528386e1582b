// What is written anew for every kind of processor.
#pragma once

#include "common.h"

namespace edgecomp {

constexpr int kMostInputs = 4;    // served by one pass over the codes
constexpr int kMostGroup = 64;    // sums of so many bytes fit into 16 bits
constexpr int kCodewords = 16;    // of codes of 4 bits
constexpr int kPanelRows = 16;    // multiplied at a time
constexpr int kPanelInputs = 6;

// What an app's models do not use it can leave out: tables of bytes, or of 16 bits.
constexpr bool has_tables(int bits) {
#ifdef EDGECOMP_WITHOUT_TABLES8
  if (bits == 8) return false;
#endif
#ifdef EDGECOMP_WITHOUT_TABLES16
  if (bits == 16) return false;
#endif
  return bits == 8 || bits == 16;
}

// Sizes of the tables of one input with the columns of `w`.
struct TableShape {
  int count, group, planes;

  explicit TableShape(const edgecomp_matrix &w)
      : count(edgecomp_blocks(&w) * w.stages), group(w.table_group), planes(w.table_bits / 8) {}

  int groups() const { return edgecomp_divide_up(count, group); }
  size_t table_bytes() const { return size_t(planes) * kCodewords; }
  // The scales of the groups lie behind the tables, and go with them everywhere.
  size_t scales_offset() const { return aligned(count * table_bytes()); }
  const float *scales(const uint8_t *tables) const { return reinterpret_cast<const float *>(tables + scales_offset()); }
  float *scales(uint8_t *tables) const { return reinterpret_cast<float *>(tables + scales_offset()); }
  size_t bytes() const { return scales_offset() + aligned(groups() * sizeof(float)); }
};

// Some tables of up to kMostInputs inputs, and the codes of a tile that go with them.
struct Run {
  const uint8_t *codes;  // cells one after the other
  int cell;              // bytes of one, half as many as rows
  TableShape shape;
  int inputs;
  const uint8_t *tables[kMostInputs];
  float *sums;  // input after input, as many as rows
};

// Decoded weights and what they are multiplied with.
struct Panel {
  const float *weights;  // of kPanelRows rows, column after column, `weights_stride` apart
  size_t weights_stride;
  int columns, inputs;  // at most kPanelInputs
  const float *x;       // input after input, `x_stride` apart
  size_t x_stride;
  float *sums;  // kPanelRows of each input, `sums_stride` apart
  size_t sums_stride;
};

struct Simd {
  const char *name;
  bool (*available)();  // on this processor
  int inputs;           // how many tables at a time pay
  // Makes the tables and scales of groups `first` to `last` - 1 of an input `x` (w.columns).
  void (*build)(const edgecomp_matrix &w, const float *x, int first, int last, uint8_t *tables);
  // Adds what the codes look up to the sums.
  void (*accumulate)(const Run &run);
  // Adds weights times x to the sums.
  void (*multiply)(const Panel &panel);
};

// All implementations, the fastest first; the last one is plain C++, runs anywhere, and is the twin of the others.
extern const Simd *const simd_all[];

// The fastest that this processor can run, or what a test has set.
const Simd &simd_best();
extern const Simd *simd_under_test;

// What a file defines for another processor in place of its implementation.
#define EDGECOMP_SIMD_ABSENT(name)                                                                   \
  namespace edgecomp {                                                                               \
  extern const Simd simd_##name = {#name, [] { return false; }, 1, nullptr, nullptr, nullptr}; \
  }

}  // namespace edgecomp
