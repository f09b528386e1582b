// Compares codebook_dot, in every implementation that this processor can run, with its plain twin. Sums are integers, so that
// outputs without scale and bias must be equal to the last bit. Exits 1 on a mismatch.
#include "codebook_dot/codebook_dot.h"
#include "codebook_dot/dot.h"
#include "test_matrices.h"

namespace {

void compare(const char *name, const edgecomp_matrix &w, const Buffer<float> &exact, const Buffer<float> &got) {
  for (size_t i = 0; i < exact.size(); ++i) {
    ++checks;
    const float limit = w.bias ? 1e-5f * (1 + std::abs(exact[i])) : 0.0f;  // a product and a sum may be rounded as one
    if (std::abs(exact[i] - got[i]) <= limit) continue;
    if (++failures > 20) continue;
    std::printf("%s %s %dx%d axis %d tile %d stages %d groups %d s %d k %d number %zu: %.9g instead of %.9g\n",
                edgecomp::dot_best().name, name, w.rows, w.columns, w.axis, w.tile, w.stages, w.groups, w.segment,
                w.codewords, i, got[i], exact[i]);
  }
}

// Calls run(threads) for every implementation, alone and with two threads.
template <class Run>
void in_every_way(const Run &run) {
  for (auto dot = edgecomp::dot_all; *dot; ++dot) {
    if (!(*dot)->available()) continue;
    edgecomp::dot_under_test = *dot;
    run(nullptr);
    run(&two_threads);
  }
  edgecomp::dot_under_test = nullptr;
}

Buffer<float> inputs(size_t count, bool positive) {
  Buffer<float> x(count);
  for (float &value : x) value = generator() % 4 ? normal() : 0.0f;
  if (positive)
    for (float &value : x) value = std::max(value, 0.0f);
  return x;
}

void check_linear(const Case &c, int batch) {
  const Buffer<float> x = inputs(size_t(batch) * c.w.columns, batch % 2);
  Buffer<float> exact(size_t(batch) * c.w.rows);
  edgecomp_dot_linear_reference(&c.w, x.data(), batch, exact.data());
  in_every_way([&](const edgecomp_threads *threads) {
    Buffer<float> got(exact.size());
    Buffer<char> scratch(edgecomp_linear_scratch_bytes(&c.w, batch));
    edgecomp_linear_run(&c.w, x.data(), batch, got.data(), scratch.data(), threads);
    compare("linear", c.w, exact, got);
  });
}

void check_conv2d(const edgecomp_conv2d &conv, const Case &c) {
  if (!edgecomp_conv2d_is_valid(&conv, &c.w) || !edgecomp_dot_conv2d_fits(&conv, &c.w)) {
    ++failures;
    std::printf("a valid convolution is refused\n");
    return;
  }
  const Buffer<float> x = inputs(size_t(conv.batch) * conv.channels * conv.height * conv.width, conv.channels % 2);
  const size_t pixels = size_t(edgecomp_conv2d_output(&conv, 0)) * edgecomp_conv2d_output(&conv, 1);
  Buffer<float> exact(conv.batch * c.w.rows * pixels);
  edgecomp_dot_conv2d_reference(&conv, &c.w, x.data(), exact.data());
  in_every_way([&](const edgecomp_threads *threads) {
    Buffer<float> got(exact.size());
    Buffer<char> scratch(edgecomp_conv2d_scratch_bytes(&conv, &c.w));
    edgecomp_conv2d_run(&conv, &c.w, x.data(), got.data(), scratch.data(), threads);
    compare("conv2d", c.w, exact, got);
  });
}

// The integers are near the codewords: a rounded matrix gives about what the exact one does.
void check_error() {
  const Case c(70, 512, 0, 64, 1, 0, 4, 16, EDGECOMP_DOT, true, true);
  const Buffer<float> x = inputs(512, false);
  float exact[70], got[70];
  edgecomp_linear_reference(&c.w, x.data(), 1, exact);
  edgecomp_dot_linear_reference(&c.w, x.data(), 1, got);
  double off = 0, size = 0;
  for (int i = 0; i < 70; ++i) off += (exact[i] - got[i]) * (exact[i] - got[i]), size += exact[i] * exact[i];
  ++checks;
  if (off <= size * 0.02 * 0.02) return;
  ++failures;
  std::printf("rounding is off by %g %%\n", 100 * std::sqrt(off / size));
}

// Numbers that no one would want give some output, and no crash.
void check_odd_numbers() {
  for (float odd : {NAN, INFINITY, -INFINITY, 3e38f, 1e-44f}) {
    const Case c(20, 40, 0, 16, 1, 1, 4, 16, EDGECOMP_DOT, false, true);
    Buffer<float> x = inputs(80, false), y(40);
    x[3] = odd;
    for (int i = 0; i < 2; ++i) {
      if (i) std::memcpy(c.codebook.data(), &odd, 4);
      in_every_way([&](const edgecomp_threads *threads) {
        Buffer<char> scratch(edgecomp_linear_scratch_bytes(&c.w, 2));
        edgecomp_linear_run(&c.w, x.data(), 2, y.data(), scratch.data(), threads);
        ++checks;
      });
    }
  }
  const Case zero(20, 40, 0, 16, 1, 1, 4, 16, EDGECOMP_DOT, false, false);
  std::fill(zero.codebook.begin(), zero.codebook.end(), uint8_t(0));
  check_linear(zero, 3);
}

// Sums stay within 32 bits at the most columns there may be; with more, the weights are not rounded.
void check_most_columns() {
  for (int columns : {EDGECOMP_MOST_DOT_COLUMNS, EDGECOMP_MOST_DOT_COLUMNS + 4}) {
    const Case c(3, columns, 0, 8, 1, 1, 4, 2, EDGECOMP_DOT, false, false);
    for (uint8_t &byte : c.codes) byte = 0;
    for (int i = 0; i < 8; ++i) {
      const float one = 1;
      std::memcpy(c.codebook.data() + 4 * i, &one, 4);
    }
    Buffer<float> x(columns), y(3);
    std::fill(x.begin(), x.end(), 1.0f);
    in_every_way([&](const edgecomp_threads *threads) {
      Buffer<char> scratch(edgecomp_linear_scratch_bytes(&c.w, 1));
      edgecomp_linear_run(&c.w, x.data(), 1, y.data(), scratch.data(), threads);
      ++checks;
      if (std::abs(y[2] - columns) <= 1e-5 * columns) return;
      ++failures;
      std::printf("%s: %d ones add up to %g\n", edgecomp::dot_best().name, columns, y[2]);
    });
  }
}

}  // namespace

int main() {
  for (int k : {2, 3, 4, 8, 11, 16, 17, 32, 100, 256})
    for (int s : {1, 2, 3, 4, 8, 9})
      for (int axis : {0, 1})
        for (int tile : {8, 16, 32, 128})
          check_linear(Case(19 + k % 3 * 16, 37 + s, axis, tile, 1 + k % 3 % 2, s % 2, s, k, EDGECOMP_DOT, k % 4 == 0, s > 3),
                       1 + (k + s + tile) % 9);
  for (int axis : {0, 1}) check_linear(Case(150, 203, axis, 64, 2, 3, 5, 32, EDGECOMP_DOT, true, true), 101);
  for (int k : {16, 256})  // several panels of columns, and several blocks of inputs
    for (int columns : {1532, 3001}) check_linear(Case(17, columns, 0, 16, 1, 0, 4, k, EDGECOMP_DOT, true, false), columns > 3000 ? 9 : 530);
  check_linear(Case(5, 8, 0, 8, 1, 1, 4, 16, EDGECOMP_DOT, true, true), 4100);  // several passes
  for (int stride : {1, 2})
    for (int padding : {0, 1, 3})
      for (int dilation : {1, 2})
        for (int channels : {5, 12, 16}) {
          const edgecomp_conv2d conv = {2, channels, 9, 8, {3, 2}, {stride, 3 - stride}, {padding, 1}, {dilation, 1}, padding == 1};
          check_conv2d(conv, Case(34, 6 * channels, 0, 32, 1, 0, 4, 16, EDGECOMP_DOT, true, true));
          check_conv2d(conv, Case(34, 6 * channels, 0, 32, 1, 1, 4, 60, EDGECOMP_DOT, true, false));
          check_conv2d(conv, Case(6, 6 * channels, 1, 8, 2, 1, 2, 5, EDGECOMP_DOT, false, false));
          check_conv2d(conv, Case(70, 6 * channels, 0, 64, 1 + stride % 2, 1, 3, 16, EDGECOMP_DOT, true, true));
        }
  // 1x1; steps wider than the kernel; positions around the blocks; channels that take several panels.
  check_conv2d({1, 20, 7, 7, {1, 1}, {1, 1}, {0, 0}, {1, 1}, 0}, Case(24, 20, 0, 8, 1, 1, 4, 16, EDGECOMP_DOT, true, false));
  check_conv2d({1, 20, 7, 9, {1, 1}, {3, 2}, {0, 0}, {1, 1}, 1}, Case(24, 20, 0, 8, 1, 1, 4, 16, EDGECOMP_DOT, true, false));
  check_conv2d({1, 3, 40, 30, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 0}, Case(40, 27, 0, 8, 1, 1, 1, 16, EDGECOMP_DOT, true, false));
  check_conv2d({1, 500, 3, 3, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 0}, Case(17, 4500, 0, 16, 1, 1, 4, 64, EDGECOMP_DOT, true, false));
  check_conv2d({1, 1, 1, 1, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 0}, Case(17, 9, 0, 16, 1, 1, 4, 64, EDGECOMP_DOT, true, false));
  check_error();
  check_odd_numbers();
  check_most_columns();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
