#include <vector>

#include "codebook_conv2d.h"

void edgecomp_conv2d_reference(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y) {
  const int height = edgecomp_conv2d_output(c, 0), width = edgecomp_conv2d_output(c, 1);
  std::vector<float> patch(w->columns), outputs(w->rows);
  for (int b = 0; b < c->batch; ++b) {
    for (int row = 0; row < height; ++row) {
      for (int column = 0; column < width; ++column) {
        for (int n = 0; n < w->columns; ++n) {
          const int channel = n % c->channels, tap = n / c->channels;
          const int i = row * c->stride[0] + tap / c->kernel[1] * c->dilation[0] - c->padding[0];
          const int j = column * c->stride[1] + tap % c->kernel[1] * c->dilation[1] - c->padding[1];
          const bool inside = i >= 0 && i < c->height && j >= 0 && j < c->width;
          const size_t first = size_t(b) * c->channels * c->height * c->width, at = size_t(i) * c->width + j;
          const size_t offset = c->channels_last ? at * c->channels + channel : channel * size_t(c->height) * c->width + at;
          patch[n] = inside ? x[first + offset] : 0.0f;
        }
        edgecomp_linear_reference(w, patch.data(), 1, outputs.data());
        for (int m = 0; m < w->rows; ++m) {
          const size_t first = size_t(b) * w->rows * height * width, at = size_t(row) * width + column;
          y[first + (c->channels_last ? at * w->rows + m : m * size_t(height) * width + at)] = outputs[m];
        }
      }
    }
  }
}
