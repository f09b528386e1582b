#include <vector>

#include "codebook_dot.h"
#include "rounding.h"

using namespace edgecomp;

namespace {

// All weights, row by row.
std::vector<int8_t> weights(const edgecomp_matrix &w, float inverse) {
  const int bits = edgecomp_bits(&w);
  std::vector<int8_t> made(size_t(w.rows) * w.columns);
  for (int row = 0; row < w.rows; ++row)
    for (int column = 0; column < w.columns; ++column) {
      const int split = w.axis == 0 ? column : row, lane = w.axis == 0 ? row : column;
      const int block = split / w.segment, element = split % w.segment;
      int sum = 0;
      for (int stage = 0; stage < w.stages; ++stage) {
        const int code = code_in_cell(w, cell(w, lane / w.tile, block, stage), bits, lane % w.tile);
        const float value = codebook_value(w, stage, block, element, code);
        sum += w.stages == 1 ? rounded_word(value, inverse) : rounded_part(value, inverse);
      }
      made[size_t(row) * w.columns + column] = w.stages == 1 ? int8_t(sum) : whole(int16_t(sum));
    }
  return made;
}

InputRange range_of(const float *x, size_t count) {
  float low = 0, high = 0;
  for (size_t i = 0; i < count; ++i) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
  return InputRange(low, high);
}

void multiply(const edgecomp_matrix &w, const std::vector<int8_t> &matrix, float scale, const InputRange &range,
              const float *x, float *y) {
  for (int row = 0; row < w.rows; ++row) {
    int64_t sum = 0;
    for (int column = 0; column < w.columns; ++column)
      sum += int64_t(matrix[size_t(row) * w.columns + column]) *
             rounded(x[column] * range.inverse, range.least(), range.most());
    const float factor = scale * (w.scale ? w.scale[row] : 1.0f) * range.scale;
    const float value = float(int32_t(sum)) * factor + (w.bias ? w.bias[row] : 0.0f);
    y[row] = w.relu ? std::max(value, 0.0f) : value;
  }
}

}  // namespace

void edgecomp_dot_linear_reference(const edgecomp_matrix *w, const float *x, int64_t batch, float *y) {
  const float scale = largest_weight(*w) / kMostWeight;
  const std::vector<int8_t> matrix = weights(*w, inverse_of(scale));
  for (int64_t b = 0; b < batch; ++b, x += w->columns, y += w->rows)
    multiply(*w, matrix, scale, range_of(x, w->columns), x, y);
}

void edgecomp_dot_conv2d_reference(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y) {
  const float scale = largest_weight(*w) / kMostWeight;
  const std::vector<int8_t> matrix = weights(*w, inverse_of(scale));
  const int height = edgecomp_conv2d_output(c, 0), width = edgecomp_conv2d_output(c, 1);
  const size_t map = size_t(c->height) * c->width, out = size_t(height) * width;
  std::vector<float> patch(w->columns), outputs(w->rows);
  for (int b = 0; b < c->batch; ++b, x += c->channels * map, y += w->rows * out) {
    const InputRange range = range_of(x, c->channels * map);
    for (size_t at = 0; at < out; ++at) {
      for (int n = 0; n < w->columns; ++n) {
        const int channel = n % c->channels, tap = n / c->channels;
        const int i = int(at) / width * c->stride[0] + tap / c->kernel[1] * c->dilation[0] - c->padding[0];
        const int j = int(at) % width * c->stride[1] + tap % c->kernel[1] * c->dilation[1] - c->padding[1];
        const bool inside = i >= 0 && i < c->height && j >= 0 && j < c->width;
        const size_t pixel = size_t(i) * c->width + j;
        patch[n] = inside ? x[c->channels_last ? pixel * c->channels + channel : channel * map + pixel] : 0.0f;
      }
      multiply(*w, matrix, scale, range, patch.data(), outputs.data());
      for (int m = 0; m < w->rows; ++m) y[c->channels_last ? at * w->rows + m : m * out + at] = outputs[m];
    }
  }
}
