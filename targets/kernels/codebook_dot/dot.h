// What is written anew for every kind of processor.
//
// Columns are taken in quads: the weights of a tile lie as [quad][row][4], the rows of a tile being those that a processor
// sums at a time. Inputs lie as [position][column], columns padded to whole quads.
#pragma once

#include "rounding.h"

namespace edgecomp {

constexpr int kMostDotRows = 32, kMostDotInputs = 12;
constexpr int kLookedUp = 16;  // codewords that one shuffle reaches

// How rounded inputs are stored: with their zero point taken off in 16 bits, as they are, or less 128. Sums of the last two
// lack `correction` times the sum of the weights.
enum class InputForm { kCentered, kUnsigned, kSigned };

// Inputs of one range, and where to: a position gets `padded` columns.
struct InputBlock {
  const float *x;
  size_t position_stride, column_stride;  // one of them is 1
  int positions, columns, padded;
  InputRange range;
  void *to;
};

// Codes of 4 bits of some blocks, and the codewords they stand for, element by element, 16 side by side.
struct QuadLookup {
  const uint8_t *codes;     // of as many rows as a tile has
  size_t pitch;             // bytes to those of the next block
  int shift;                // 0 or 4
  const int8_t *planes;
  size_t planes_step;       // bytes to those of the next block
  int blocks, quads;        // of each block
  int8_t *tile;
};

// Some columns of the weights of a tile, and the inputs that meet them.
struct DotRun {
  const void *weights;       // packed
  const char *const *inputs; // so many positions
  int count;
  const ptrdiff_t *taps;     // bytes from there to the columns of each tap
  int tap_count, quads;      // of each tap
  int32_t *sums;             // `rows` of each position
  bool add;                  // to what is there
};

// Outputs of some positions: sums · factor[row] · scale + bias[row].
struct DotFinish {
  const int32_t *sums, *row_sums;
  const float *factor, *bias;
  int positions;
  const InputRange *ranges;  // of each position, `range_step` apart
  int range_step;
  bool relu;
  float *y;  // `rows` of each position
};

struct Dot {
  const char *name;
  bool (*available)();  // on this processor
  InputForm form;
  int rows, inputs;     // of a tile; positions multiplied at a time
  int quads;            // the columns of a tap are a multiple of so many
  int weight_bytes;     // of a packed weight
  void (*quantize)(const InputBlock &block);
  // Smallest and largest of so many numbers and 0.
  void (*range)(const float *x, size_t count, float *low, float *high);
  // Up to 16 codewords: columns[element · rows + row] = planes[element · 16 + codes[row]].
  void (*look_up)(const int8_t *planes, int elements, const uint8_t *codes, int8_t *columns);
  // The same into a tile; may be NULL.
  void (*look_up_quads)(const QuadLookup &lookup);
  // Columns side by side become quads.
  void (*interleave)(const int8_t *columns, int quads, int8_t *tile);
  // Weights as `multiply` wants them, and their sums by row added to those there are. May work in place.
  void (*pack)(const int8_t *tile, int quads, void *packed, int32_t *row_sums);
  void (*multiply)(const DotRun &run);
  void (*finish)(const DotFinish &outputs);

  int input_bytes() const { return form == InputForm::kCentered ? 2 : 1; }
  // What a pixel outside of the image is stored as.
  int outside(const InputRange &range) const {
    return form == InputForm::kCentered ? 0 : form == InputForm::kUnsigned ? range.zero : range.zero - 128;
  }
};

// All implementations, the fastest first; the last one is plain C++ and runs anywhere.
extern const Dot *const dot_all[];

// The fastest that this processor can run, or what a test has set.
const Dot &dot_best();
extern const Dot *dot_under_test;

// What a file defines for another processor in place of its implementation.
#define EDGECOMP_DOT_ABSENT(name) \
  extern const Dot dot_##name = {#name, [] { return false; }, InputForm::kCentered, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Codewords as integers, made anew for every call: the codebooks are small.
class DotWords {
 public:
  DotWords(const edgecomp_matrix &w, const Dot &dot);
  size_t bytes() const;
  // Rounds all. `memory`: bytes() of them, aligned.
  void make(void *memory);
  float scale() const { return scale_; }
  // Decodes `quads` quads from `column` on, of which only `columns` columns are there, for the tile that begins at `row`.
  void decode(int row, int column, int columns, int quads, int8_t *tile) const;

 private:
  bool by_quads(int row, int column, int quads, int8_t *tile) const;
  void along_rows(int row, int column, int columns, int8_t *out) const;
  void down_columns(int row, int column, int columns, int8_t *out) const;

  const edgecomp_matrix &w_;
  const Dot &dot_;
  bool words_;     // codewords lie one after the other, else an element of all of them side by side
  int stride_;     // codewords side by side
  float scale_ = 0;
  const void *memory_ = nullptr;
};

}  // namespace edgecomp
