#include "codebook_conv2d.h"

#include <cstring>

namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// One image in the order height, width, channel, so that the channels of a patch lie side by side.
void to_channels_last(const edgecomp_conv2d &c, const float *x, float *image) {
  const size_t pixels = size_t(c.height) * c.width;
  for (int channel = 0; channel < c.channels; ++channel)
    for (size_t pixel = 0; pixel < pixels; ++pixel)
      image[pixel * c.channels + channel] = x[channel * pixels + pixel];
}

void gather_patch(const edgecomp_conv2d &c, const float *image, int row, int column, float *patch) {
  for (int i = 0; i < c.kernel[0]; ++i) {
    for (int j = 0; j < c.kernel[1]; ++j, patch += c.channels) {
      const int y = row * c.stride[0] + i * c.dilation[0] - c.padding[0];
      const int x = column * c.stride[1] + j * c.dilation[1] - c.padding[1];
      if (y < 0 || y >= c.height || x < 0 || x >= c.width)
        std::memset(patch, 0, sizeof(float) * c.channels);
      else
        std::memcpy(patch, image + (size_t(y) * c.width + x) * c.channels, sizeof(float) * c.channels);
    }
  }
}

struct Scratch {
  size_t image, patch, outputs, linear, bytes;  // offsets and total

  Scratch(const edgecomp_conv2d &c, const edgecomp_matrix &w) {
    image = 0;
    patch = image + (c.channels_last ? 0 : aligned(sizeof(float) * c.channels * c.height * c.width));
    outputs = patch + aligned(sizeof(float) * w.columns);
    linear = outputs + aligned(sizeof(float) * w.rows);
    bytes = linear + edgecomp_linear_select(&w)->scratch_bytes(&w);
  }
};

}  // namespace

int edgecomp_conv2d_is_valid(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  for (int i = 0; i < 2; ++i)
    if (c->kernel[i] <= 0 || c->stride[i] <= 0 || c->padding[i] < 0 || c->dilation[i] <= 0) return 0;
  return edgecomp_matrix_is_valid(w) && c->batch > 0 && c->channels > 0 && c->height > 0 && c->width > 0 &&
         int64_t(c->channels) * c->kernel[0] * c->kernel[1] == w->columns && edgecomp_conv2d_output(c, 0) > 0 &&
         edgecomp_conv2d_output(c, 1) > 0;
}

size_t edgecomp_conv2d_scratch_bytes(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  return Scratch(*c, *w).bytes;
}

void edgecomp_conv2d_run(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y, void *memory) {
  const edgecomp_linear_variant *linear = edgecomp_linear_select(w);
  const Scratch offsets(*c, *w);
  char *base = static_cast<char *>(memory);
  float *reordered = reinterpret_cast<float *>(base + offsets.image);
  float *patch = reinterpret_cast<float *>(base + offsets.patch);
  float *outputs = reinterpret_cast<float *>(base + offsets.outputs);
  const int height = edgecomp_conv2d_output(c, 0), width = edgecomp_conv2d_output(c, 1);
  const size_t pixels = size_t(height) * width, input = size_t(c->channels) * c->height * c->width;
  for (int b = 0; b < c->batch; ++b) {
    const float *image = x + b * input;
    if (!c->channels_last) {
      to_channels_last(*c, image, reordered);
      image = reordered;
    }
    float *out = y + size_t(b) * w->rows * pixels;
    for (size_t pixel = 0; pixel < pixels; ++pixel) {
      float *here = c->channels_last ? out + pixel * w->rows : outputs;
      gather_patch(*c, image, int(pixel / width), int(pixel % width), patch);
      linear->run(w, patch, 1, here, base + offsets.linear);
      for (int row = 0; row < w->rows && !c->channels_last; ++row) out[row * pixels + pixel] = outputs[row];
    }
  }
}
