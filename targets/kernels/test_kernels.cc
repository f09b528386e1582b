// Compares every variant with its plain twin on random matrices at the edges of the SIMD code. Exits 1 on a mismatch.
// Buffers have their exact size and odd alignment, so that AddressSanitizer sees any step outside.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "codebook_conv2d/codebook_conv2d.h"
#include "codebook_embedding/codebook_embedding.h"
#include "codebook_linear/common.h"

namespace {

std::mt19937 generator(1);
int failures = 0, checks = 0;

float normal() { return std::normal_distribution<float>()(generator); }

uint16_t random_half() {  // ±(1 … 2) · 2^(-3 … 0), and now and then 0 or a subnormal
  const unsigned bits = generator();
  if (bits % 64 == 0) return 0;
  if (bits % 64 == 1) return 1 + bits % 1000;
  return uint16_t((bits & 0x83ff) | (12 + (bits >> 20) % 4) << 10);
}

// A buffer that starts `offset` bytes behind an aligned address and ends where the heap block ends.
struct Buffer {
  std::unique_ptr<uint8_t[]> memory;
  uint8_t *data;
  Buffer(size_t bytes, size_t offset) : memory(new uint8_t[bytes + offset]), data(memory.get() + offset) {}
};

struct Case {
  edgecomp_matrix w{};
  Buffer codes{0, 0}, codebook{0, 0};
  std::vector<float> scale, bias;

  Case(int rows, int columns, int axis, int tile, int stages, int groups, int s, int k, bool half, bool scaled) {
    w = {rows, columns, axis, tile, stages, groups, s, k, nullptr, nullptr, half, nullptr, nullptr, 8, 64, 0};
    if (w.groups == 0) w.groups = edgecomp_blocks(&w);
    codes = Buffer(edgecomp_codes_bytes(&w), 1);
    for (size_t i = 0; i < edgecomp_codes_bytes(&w); ++i) codes.data[i] = uint8_t(generator());
    if (rows % 2) std::memset(codes.data, 255, edgecomp_codes_bytes(&w) / 2);  // the highest codes
    const size_t elements = edgecomp_codebook_elements(&w);
    codebook = Buffer(elements * (half ? 2 : 4), half ? 2 : 4);
    for (size_t i = 0; i < elements; ++i) {
      const float value = normal();
      const uint16_t bits = random_half();
      if (half) std::memcpy(codebook.data + 2 * i, &bits, 2);
      else std::memcpy(codebook.data + 4 * i, &value, 4);
    }
    w.codes = codes.data;
    w.codebook = codebook.data;
    if (scaled) {
      for (int i = 0; i < rows; ++i) scale.push_back(normal()), bias.push_back(normal());
      w.scale = scale.data();
      w.bias = bias.data();
    }
  }
};

// How far an output may be off. The largest product is bounded by the largest |input| times Σ |codeword|; rounding
// errors of the products are independent, so their sum stays within a few standard deviations of 0.
double error_limit(const edgecomp_matrix &w, const float *x, size_t inputs, float product_error) {
  float input = 0, word = 0;
  for (size_t i = 0; i < inputs; ++i) input = std::max(input, std::abs(x[i]));
  for (int stage = 0; stage < w.stages; ++stage)
    for (int block = 0; block < edgecomp_blocks(&w); ++block)
      for (int c = 0; c < w.codewords; ++c) {
        float sum = 0;
        for (int e = 0; e < w.segment; ++e) sum += std::abs(edgecomp::codebook_value(w, stage, block, e, c));
        word = std::max(word, sum);
      }
  const double terms = double(w.stages) * (w.axis == 0 ? edgecomp_blocks(&w) : w.columns);
  return double(input) * word * (product_error * std::min(terms, 4 * std::sqrt(terms)) + 1e-6 * terms);
}

void compare(const char *name, const edgecomp_matrix &w, int row, float exact, float got, double limit) {
  ++checks;
  if (std::abs(exact - got) <= limit * std::abs(w.scale ? w.scale[row] : 1) + 1e-6) return;
  ++failures;
  std::printf("%s %dx%d axis %d tile %d stages %d groups %d s %d k %d row %d: %g instead of %g, allowed difference %g\n",
              name, w.rows, w.columns, w.axis, w.tile, w.stages, w.groups, w.segment, w.codewords, row, got, exact, limit);
}

void check_linear(const Case &c, int batch) {
  std::vector<float> x(size_t(batch) * c.w.columns), exact(size_t(batch) * c.w.rows);
  for (float &value : x) value = generator() % 4 ? normal() : 0.0f;
  edgecomp_linear_reference(&c.w, x.data(), batch, exact.data());
  for (auto variant = edgecomp_linear_variants; *variant; ++variant) {
    if (!(*variant)->supports(&c.w)) continue;
    std::vector<float> got(exact.size(), NAN);
    const size_t bytes = ((*variant)->scratch_bytes(&c.w) + 63) / 64 * 64;
    std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, bytes ? bytes : 64), std::free);
    (*variant)->run(&c.w, x.data(), batch, got.data(), scratch.get());
    for (int b = 0; b < batch; ++b) {
      const double limit = error_limit(c.w, &x[size_t(b) * c.w.columns], c.w.columns, (*variant)->product_error);
      for (int row = 0; row < c.w.rows; ++row) {
        const size_t i = size_t(b) * c.w.rows + row;
        compare((*variant)->name, c.w, row, exact[i], got[i], limit);
      }
    }
  }
}

void check_conv2d(const edgecomp_conv2d &conv, const Case &c) {
  if (!edgecomp_conv2d_is_valid(&conv, &c.w)) {
    ++failures;
    std::printf("a valid convolution is refused\n");
    return;
  }
  std::vector<float> x(size_t(conv.batch) * conv.channels * conv.height * conv.width);
  for (float &value : x) value = normal();
  const size_t pixels = size_t(edgecomp_conv2d_output(&conv, 0)) * edgecomp_conv2d_output(&conv, 1);
  std::vector<float> exact(conv.batch * c.w.rows * pixels), got(exact.size(), NAN);
  edgecomp_conv2d_reference(&conv, &c.w, x.data(), exact.data());
  const size_t bytes = (edgecomp_conv2d_scratch_bytes(&conv, &c.w) + 63) / 64 * 64;
  std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, bytes), std::free);
  edgecomp_conv2d_run(&conv, &c.w, x.data(), got.data(), scratch.get());
  const double limit = error_limit(c.w, x.data(), x.size(), edgecomp_linear_select(&c.w)->product_error);
  for (size_t i = 0; i < exact.size(); ++i)
    compare("conv2d", c.w, int(conv.channels_last ? i % c.w.rows : i / pixels % c.w.rows), exact[i], got[i], limit);
}

// A row of W is what the plain twin of the dense layer makes of unit vectors.
void check_embedding(Case c) {
  c.w.bias = nullptr;
  std::vector<float> units(size_t(c.w.columns) * c.w.columns), matrix(size_t(c.w.columns) * c.w.rows);
  for (int i = 0; i < c.w.columns; ++i) units[size_t(i) * c.w.columns + i] = 1;
  edgecomp_linear_reference(&c.w, units.data(), c.w.columns, matrix.data());
  const int64_t index[] = {c.w.rows - 1, 0, c.w.rows / 2, 0}, outside[] = {c.w.rows}, negative[] = {-1};
  std::vector<float> got(4 * c.w.columns);
  if (!edgecomp_embedding_run(&c.w, index, 4, got.data()) || edgecomp_embedding_run(&c.w, outside, 1, got.data() + 1) ||
      edgecomp_embedding_run(&c.w, negative, 1, got.data() + 1)) {
    ++failures;
    std::printf("embedding: a row is refused, or an index outside is not\n");
  }
  for (int i = 0; i < 4; ++i)
    for (int column = 0; column < c.w.columns; ++column)
      compare("embedding", c.w, int(index[i]), matrix[size_t(column) * c.w.rows + index[i]],
              got[size_t(i) * c.w.columns + column], 1e-6);
}

}  // namespace

int main() {
  for (int rows : {1, 31, 32, 33, 65})
    for (int columns : {1, 3, 4, 5, 252, 256, 260, 515})
      for (int stages : {1, 2}) {
        check_linear(Case(rows, columns, 0, 32, stages, 0, 4, 16, true, rows > 32), 1 + rows % 2);
        check_linear(Case(rows, columns, 0, 32, stages, 1, 4, 16, false, false), 1);
      }
  for (int k : {2, 3, 4, 8, 11, 16, 32, 100, 128, 256})
    for (int s : {1, 2, 3, 4, 8, 9})
      for (int axis : {0, 1})
        for (int tile : {8, 16, 32}) check_linear(Case(19, 37, axis, tile, 1 + k % 2, s % 2, s, k, k % 4 == 0, s > 2), 2);
  for (int stride : {1, 2})
    for (int padding : {0, 1, 3})
      for (int dilation : {1, 2}) {
        const edgecomp_conv2d conv = {2, 5, 9, 8, {3, 2}, {stride, 3 - stride}, {padding, 1}, {dilation, 1}, padding == 1};
        check_conv2d(conv, Case(34, 30, 0, 32, 1, 0, 4, 16, true, true));
        check_conv2d(conv, Case(6, 30, 1, 8, 1, 1, 2, 5, false, false));
      }
  for (int k : {2, 16, 243})
    for (int s : {1, 3, 4})
      for (int axis : {0, 1}) check_embedding(Case(21, 17, axis, 8, 1 + k % 2, s % 2, s, k, s == 4, k == 16));
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
