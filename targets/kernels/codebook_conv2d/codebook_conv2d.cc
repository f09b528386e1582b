#include "codebook_conv2d.h"

#include "../codebook_dot/codebook_dot.h"
#include "../codebook_linear/lookup16.h"
#include "../codebook_linear/transpose.h"

using namespace edgecomp;

namespace {

constexpr size_t kBandBytes = 512 * 1024;  // of scratch memory for a band of rows: what an L2 cache holds
constexpr size_t kPatchBytes = 1024 * 1024;  // of patches gathered at a time
constexpr int kMostPatches = 96;

// Whether all positions of the kernel look up the same products.
bool shares_tables(const edgecomp_conv2d &c, const edgecomp_matrix &w) {
  return lookup16_fits(w) && w.groups == 1 && c.channels % w.segment == 0;
}

// The part of `w` for one position of the kernel: what the tables of a pixel are made with.
edgecomp_matrix at_one_position(const edgecomp_conv2d &c, const edgecomp_matrix &w) {
  edgecomp_matrix part = w;
  part.columns = c.channels;
  return part;
}

// How a convolution is cut into bands, and where in the scratch memory things are.
struct Plan {
  bool tables;          // of pixels, else patches
  int height, width;    // of the output
  int rows, input_rows; // of a band
  int patches;
  size_t table_bytes;   // of a pixel
  size_t pixels, work, outputs, bytes;  // offsets of the pixels (channels last), of tables or patches, of outputs; the total
  size_t linear;        // offset of the scratch memory of codebook_linear

  Plan(const edgecomp_conv2d &c, const edgecomp_matrix &w)
      : tables(shares_tables(c, w)), height(edgecomp_conv2d_output(&c, 0)), width(edgecomp_conv2d_output(&c, 1)) {
    table_bytes = tables ? TableShape(at_one_position(c, w)).bytes() : 0;
    const size_t pixel_bytes = table_bytes + (c.channels_last ? 0 : sizeof(float) * c.channels);
    const size_t row_bytes = std::max<size_t>(1, pixel_bytes * c.width);
    const int span = c.dilation[0] * (c.kernel[0] - 1) + 1;
    const int64_t wanted = int64_t(kBandBytes / row_bytes), least = span;
    rows = int(std::clamp<int64_t>((wanted - least) / c.stride[0] + 1, 1, height));
    input_rows = int(std::min<int64_t>(c.height, int64_t(rows - 1) * c.stride[0] + span));
    const int64_t fitting = int64_t(kPatchBytes / (sizeof(float) * w.columns));
    patches = int(std::min<int64_t>(std::clamp<int64_t>(fitting, 8, kMostPatches), int64_t(rows) * width));
    pixels = 0;
    work = pixels + (c.channels_last ? 0 : aligned(sizeof(float) * c.channels * c.width * input_rows));
    outputs = work + (tables ? table_bytes * c.width * input_rows : aligned(sizeof(float) * w.columns * patches));
    linear = outputs + (tables || c.channels_last ? 0 : aligned(sizeof(float) * w.rows * patches));
    bytes = linear + (tables ? 0 : edgecomp_linear_scratch_bytes(&w, patches));
  }
};

struct Band {
  const edgecomp_conv2d &c;
  const edgecomp_matrix &w;
  const Plan &plan;
  const edgecomp_threads *threads;
  const float *x;  // of this image
  float *y;
  char *scratch;
  int first, last;                 // rows of the output
  int first_input, last_input;     // rows of the input
  const float *pixels;             // of the input, channels last, from first_input on

  const float *pixel(int row, int column) const {
    return pixels + (size_t(row - first_input) * c.width + column) * c.channels;
  }
  // Position (i, j) of the kernel for an output pixel; false if it lies outside of the image.
  bool find(int row, int column, int i, int j, int *input_row, int *input_column) const {
    *input_row = row * c.stride[0] + i * c.dilation[0] - c.padding[0];
    *input_column = column * c.stride[1] + j * c.dilation[1] - c.padding[1];
    return *input_row >= 0 && *input_row < c.height && *input_column >= 0 && *input_column < c.width;
  }

  void reorder() {
    if (c.channels_last) {
      pixels = x + size_t(first_input) * c.width * c.channels;
      return;
    }
    float *to = reinterpret_cast<float *>(scratch + plan.pixels);
    const size_t map = size_t(c.height) * c.width;
    for_each(threads, last_input - first_input, [&](size_t i) {
      transpose(x + (first_input + i) * c.width, map, c.channels, c.width, to + i * c.width * c.channels, c.channels);
    });
    pixels = to;
  }

  // `count` outputs from `first_output` on, `values_stride` apart, of so many pixels from number `at` of
  // the map on.
  void put(size_t at, int pixels, int first_output, int count, const float *values, size_t values_stride) const {
    const size_t map = size_t(plan.height) * plan.width;
    if (!c.channels_last) return transpose(values, values_stride, pixels, count, y + first_output * map + at, map);
    for (int i = 0; i < pixels; ++i) std::copy_n(values + i * values_stride, count, y + (at + i) * w.rows + first_output);
  }

  void with_tables() {
    const edgecomp_matrix part = at_one_position(c, w);
    const TableShape shape(part);
    const Simd &simd = simd_best();
    uint8_t *tables = reinterpret_cast<uint8_t *>(scratch + plan.work);
    for_each(threads, last_input - first_input, [&](size_t i) {
      for (int column = 0; column < c.width; ++column) {
        uint8_t *to = tables + (i * c.width + column) * plan.table_bytes;
        simd.build(part, pixel(first_input + int(i), column), 0, shape.groups(), to);
      }
    });
    const int tiles = edgecomp_divide_up(w.rows, w.tile), rows = last - first;
    for_each(threads, size_t(tiles) * rows, [&](size_t i) {
      for (int column = 0; column < plan.width; column += simd.inputs)
        look_up(simd, shape, tables, int(i) / rows, first + int(i) % rows, column);
    });
  }

  // The outputs of a tile for some neighbouring pixels.
  void look_up(const Simd &simd, const TableShape &shape, const uint8_t *tables, int tile, int row, int column) {
    const int count = std::min(simd.inputs, plan.width - column);
    alignas(64) float sums[kMostInputs * kMostLanes];
    std::fill(sums, sums + count * w.tile, 0.0f);
    for (int i = 0; i < c.kernel[0]; ++i) {
      for (int j = 0; j < c.kernel[1]; ++j) {
        // Inputs that see the image: all in the middle, a run of them at its edges.
        Run run = {cell(w, tile, (i * c.kernel[1] + j) * edgecomp_divide_up(c.channels, w.segment), 0), w.tile / 2, shape, 0, {}, sums};
        for (int input = 0; input < count; ++input) {
          int input_row, input_column;
          if (!find(row, column + input, i, j, &input_row, &input_column)) continue;
          if (run.inputs == 0) run.sums = sums + input * w.tile;
          run.tables[run.inputs++] = tables + (size_t(input_row - first_input) * c.width + input_column) * plan.table_bytes;
        }
        if (run.inputs) simd.accumulate(run);
      }
    }
    const int first_output = tile * w.tile, outputs = std::min(w.tile, w.rows - first_output);
    for (int input = 0; input < count; ++input) {
      float *values = sums + input * w.tile;
      finish_rows(w, first_output, outputs, values, values);
    }
    put(size_t(row) * plan.width + column, count, first_output, outputs, sums, w.tile);
  }

  void with_patches() {
    float *patches = reinterpret_cast<float *>(scratch + plan.work);
    const int count = (last - first) * plan.width;
    for (int begin = 0; begin < count; begin += plan.patches) {
      const int end = std::min(begin + plan.patches, count);
      for_each(threads, end - begin, [&](size_t i) {
        const int at = begin + int(i), row = first + at / plan.width, column = at % plan.width;
        float *patch = patches + i * w.columns;
        for (int tap = 0; tap < c.kernel[0] * c.kernel[1]; ++tap, patch += c.channels) {
          int input_row, input_column;
          if (find(row, column, tap / c.kernel[1], tap % c.kernel[1], &input_row, &input_column))
            std::copy_n(pixel(input_row, input_column), c.channels, patch);
          else
            std::fill_n(patch, c.channels, 0.0f);
        }
      });
      const size_t at = size_t(first) * plan.width + begin;
      float *outputs = c.channels_last ? y + at * w.rows : reinterpret_cast<float *>(scratch + plan.outputs);
      edgecomp_linear_run(&w, patches, end - begin, outputs, scratch + plan.linear, threads);
      if (!c.channels_last) put(at, end - begin, 0, w.rows, outputs, w.rows);
    }
  }
};

}  // namespace

int edgecomp_conv2d_is_valid(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  const int32_t most = 1 << 24;  // of sizes: sums and products of positions then stay far from the limits of 32 bits
  for (int i = 0; i < 2; ++i)
    if (c->kernel[i] <= 0 || c->stride[i] <= 0 || c->stride[i] > most || c->padding[i] < 0 || c->padding[i] > most ||
        c->dilation[i] <= 0)
      return 0;
  return edgecomp_matrix_is_valid(w) && c->batch > 0 && c->channels > 0 && c->height > 0 && c->width > 0 &&
         c->height <= most && c->width <= most &&
         edgecomp_conv2d_columns(c) == w->columns && edgecomp_conv2d_output(c, 0) > 0 &&
         edgecomp_conv2d_output(c, 1) > 0;
}

size_t edgecomp_conv2d_scratch_bytes(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  return edgecomp_dot_conv2d_fits(c, w) ? edgecomp_dot_conv2d_scratch_bytes(c, w) : Plan(*c, *w).bytes;
}

void edgecomp_conv2d_run(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y, void *scratch,
                         const edgecomp_threads *threads) {
  if (edgecomp_dot_conv2d_fits(c, w)) return edgecomp_dot_conv2d_run(c, w, x, y, scratch, threads);
  const Plan plan(*c, *w);
  const size_t input = size_t(c->channels) * c->height * c->width, output = size_t(w->rows) * plan.height * plan.width;
  for (int b = 0; b < c->batch; ++b) {
    for (int first = 0; first < plan.height; first += plan.rows) {
      const int last = std::min(first + plan.rows, plan.height);
      const int span = c->dilation[0] * (c->kernel[0] - 1) + 1;
      const int first_input = std::max(0, first * c->stride[0] - c->padding[0]);
      const int last_input = std::min(c->height, (last - 1) * c->stride[0] - c->padding[0] + span);
      Band band = {*c, *w, plan, threads, x + b * input, y + b * output, static_cast<char *>(scratch),
                   first, last, std::min(first_input, c->height), std::max(first_input, last_input), nullptr};
      band.reorder();
      plan.tables ? band.with_tables() : band.with_patches();
    }
  }
}
