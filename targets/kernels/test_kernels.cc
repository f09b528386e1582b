// Compares the kernels, in every implementation that this processor can run, with their plain twins, on random matrices at
// the edges of the SIMD code. Exits 1 on a mismatch. Buffers end where memory ends, so that any step behind them is a crash.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "codebook_conv2d/codebook_conv2d.h"
#include "codebook_embedding/codebook_embedding.h"
#include "codebook_linear/simd.h"

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

// Memory that ends at a page that must not be touched, and so begins at any address.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count = 0) : size_(count) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), used = (count * sizeof(T) + page - 1) / page * page;
    mapped_ = used + page;
    memory_ = static_cast<char *>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_ + used, page, PROT_NONE)) std::abort();
    data_ = reinterpret_cast<T *>(memory_ + used - count * sizeof(T));
  }
  Buffer(Buffer &&other) { swap(other); }
  Buffer &operator=(Buffer &&other) {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (memory_) munmap(memory_, mapped_);
  }

  T *data() const { return data_; }
  T *begin() const { return data_; }
  T *end() const { return data_ + size_; }
  size_t size() const { return size_; }
  T &operator[](size_t i) const { return data_[i]; }

 private:
  void swap(Buffer &other) {
    std::swap(size_, other.size_), std::swap(mapped_, other.mapped_);
    std::swap(memory_, other.memory_), std::swap(data_, other.data_);
  }
  size_t size_ = 0, mapped_ = 0;
  char *memory_ = nullptr;
  T *data_ = nullptr;
};

void run_on_two_threads(void *, void (*task)(void *, size_t), void *context, size_t count) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < count;) task(context, i);
  };
  std::thread other(work);
  work();
  other.join();
}

const edgecomp_threads two_threads = {nullptr, 2, run_on_two_threads};

struct Case {
  edgecomp_matrix w;
  Buffer<uint8_t> codes, codebook;
  Buffer<float> scale, bias;

  // The numbers as in edgecomp_matrix; 0 groups: a codebook for every block.
  Case(int rows, int columns, int axis, int tile, int stages, int groups, int s, int k, int table_bits, bool half,
       bool finished, int table_group = 64)
      : w{rows, columns, axis, tile, stages, groups, s, k, nullptr, nullptr, half, nullptr, nullptr, table_bits, table_group, finished} {
    if (w.groups == 0) w.groups = edgecomp_blocks(&w);
    codes = Buffer<uint8_t>(edgecomp_codes_bytes(&w));
    for (uint8_t &byte : codes) byte = uint8_t(generator());
    if (rows % 2) std::fill_n(codes.data(), codes.size() / 2, 255);  // the highest codes
    const size_t elements = edgecomp_codebook_elements(&w);
    codebook = Buffer<uint8_t>(elements * (half ? 2 : 4));
    for (size_t i = 0; i < elements; ++i) {
      const float value = normal();
      const uint16_t half_value = random_half();
      if (half) std::memcpy(codebook.data() + 2 * i, &half_value, 2);
      else std::memcpy(codebook.data() + 4 * i, &value, 4);
    }
    w.codes = codes.data();
    w.codebook = codebook.data();
    if (finished) {
      scale = Buffer<float>(rows), bias = Buffer<float>(rows);
      for (int i = 0; i < rows; ++i) scale[i] = normal(), bias[i] = normal();
      w.scale = scale.data();
      w.bias = bias.data();
    }
  }
};

// How far an output may be off. The largest product is bounded by the largest |input| times Σ |codeword|; rounding
// errors of the products are independent, so their sum stays within a few standard deviations of 0.
double error_limit(const edgecomp_matrix &w, const float *x, size_t inputs) {
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
  const double rounding = w.table_bits == 32 ? 0 : 1.0 / ((1 << w.table_bits) - 2);
  return double(input) * word * (rounding * std::min(terms, 4 * std::sqrt(terms)) + 1e-6 * terms);
}

void compare(const char *name, const edgecomp_matrix &w, int row, float exact, float got, double limit) {
  ++checks;
  if (std::abs(exact - got) <= limit * std::abs(w.scale ? w.scale[row] : 1) + 1e-6) return;
  if (++failures > 20) return;
  std::printf("%s %s %dx%d axis %d tile %d stages %d groups %d s %d k %d bits %d row %d: %g instead of %g, allowed difference %g\n",
              edgecomp::simd_best().name, name, w.rows, w.columns, w.axis, w.tile, w.stages, w.groups, w.segment,
              w.codewords, w.table_bits, row, got, exact, limit);
}

// Calls run(threads) for every implementation, alone and with two threads.
template <class Run>
void in_every_way(const Run &run) {
  for (auto simd = edgecomp::simd_all; *simd; ++simd) {
    if (!(*simd)->available()) continue;
    edgecomp::simd_under_test = *simd;
    run(nullptr);
    run(&two_threads);
  }
  edgecomp::simd_under_test = nullptr;
}

void check_linear(const Case &c, int batch) {
  const edgecomp_matrix &w = c.w;
  Buffer<float> x(size_t(batch) * w.columns), exact(size_t(batch) * w.rows);
  for (float &value : x) value = generator() % 4 ? normal() : 0.0f;
  edgecomp_linear_reference(&w, x.data(), batch, exact.data());
  in_every_way([&](const edgecomp_threads *threads) {
    Buffer<float> got(exact.size());
    Buffer<char> scratch(edgecomp_linear_scratch_bytes(&w, batch));
    edgecomp_linear_run(&w, x.data(), batch, got.data(), scratch.data(), threads);
    for (int b = 0; b < batch; ++b) {
      const double limit = error_limit(w, &x[size_t(b) * w.columns], w.columns);
      for (int row = 0; row < w.rows; ++row)
        compare("linear", w, row, exact[size_t(b) * w.rows + row], got[size_t(b) * w.rows + row], limit);
    }
  });
}

void check_conv2d(const edgecomp_conv2d &conv, const Case &c) {
  const edgecomp_matrix &w = c.w;
  if (!edgecomp_conv2d_is_valid(&conv, &w)) {
    ++failures;
    std::printf("a valid convolution is refused\n");
    return;
  }
  Buffer<float> x(size_t(conv.batch) * conv.channels * conv.height * conv.width);
  for (float &value : x) value = normal();
  const size_t pixels = size_t(edgecomp_conv2d_output(&conv, 0)) * edgecomp_conv2d_output(&conv, 1);
  Buffer<float> exact(conv.batch * w.rows * pixels);
  edgecomp_conv2d_reference(&conv, &w, x.data(), exact.data());
  const double limit = error_limit(w, x.data(), x.size());
  in_every_way([&](const edgecomp_threads *threads) {
    Buffer<float> got(exact.size());
    Buffer<char> scratch(edgecomp_conv2d_scratch_bytes(&conv, &w));
    edgecomp_conv2d_run(&conv, &w, x.data(), got.data(), scratch.data(), threads);
    for (size_t i = 0; i < exact.size(); ++i)
      compare("conv2d", w, int(conv.channels_last ? i % w.rows : i / pixels % w.rows), exact[i], got[i], limit);
  });
}

// A row of W is what the plain twin of the dense layer makes of unit vectors.
void check_embedding(const Case &c) {
  edgecomp_matrix w = c.w;
  w.bias = nullptr, w.relu = 0;
  std::vector<float> units(size_t(w.columns) * w.columns), matrix(size_t(w.columns) * w.rows);
  for (int i = 0; i < w.columns; ++i) units[size_t(i) * w.columns + i] = 1;
  edgecomp_linear_reference(&w, units.data(), w.columns, matrix.data());
  const int64_t index[] = {w.rows - 1, 0, w.rows / 2, 0}, outside[] = {w.rows}, negative[] = {-1};
  Buffer<float> got(4 * w.columns);
  if (!edgecomp_embedding_run(&w, index, 4, got.data()) || edgecomp_embedding_run(&w, outside, 1, got.data()) ||
      edgecomp_embedding_run(&w, negative, 1, got.data())) {
    ++failures;
    std::printf("embedding: a row is refused, or an index outside is not\n");
  }
  edgecomp_embedding_run(&w, index, 4, got.data());
  for (int i = 0; i < 4; ++i)
    for (int column = 0; column < w.columns; ++column)
      compare("embedding", w, int(index[i]), matrix[size_t(column) * w.rows + index[i]],
              got[size_t(i) * w.columns + column], 1e-6);
}

}  // namespace

int main() {
  // Byte and two-byte tables: rows around the tiles, columns around the groups, inputs around those taken at a time.
  for (int tile : {32, 64, 128})
    for (int rows : {1, tile - 1, tile, 2 * tile + 1})
      for (int columns : {1, 4, 5, 63, 252, 260, 515})
        for (int bits : {8, 16}) {
          const int group = 16 << columns % 3, batch = 1 + (rows + columns) % 6;
          check_linear(Case(rows, columns, 0, tile, 1 + rows % 2, 0, 4, 16, bits, true, rows > 32, group), batch);
          check_linear(Case(rows, columns, 0, tile, 1, 1, 1 + columns % 8, 9 + columns % 8, bits, false, false, group), batch);
        }
  // Everything else in fp32: few inputs, and so many that decoding pays.
  for (int k : {2, 3, 4, 8, 11, 16, 32, 100, 128, 256})
    for (int s : {1, 2, 3, 4, 8, 9})
      for (int axis : {0, 1})
        for (int tile : {8, 16, 32, 128})
          check_linear(Case(19, 37, axis, tile, 1 + k % 2, s % 2, s, k, 32, k % 4 == 0, s > 2), k % 3 ? 2 : 5 + s);
  for (int axis : {0, 1}) check_linear(Case(150, 203, axis, 64, 2, 3, 5, 32, 32, true, true), 101);
  for (int stride : {1, 2})
    for (int padding : {0, 1, 3})
      for (int dilation : {1, 2}) {
        edgecomp_conv2d conv = {2, 5, 9, 8, {3, 2}, {stride, 3 - stride}, {padding, 1}, {dilation, 1}, padding == 1};
        check_conv2d(conv, Case(34, 30, 0, 32, 1, 0, 4, 16, 8, true, true));
        check_conv2d(conv, Case(6, 30, 1, 8, 1, 1, 2, 5, 32, false, false));
        conv.channels = 12;  // tables of pixels
        check_conv2d(conv, Case(70, 72, 0, 64, 1 + stride % 2, 1, 4, 16, 8 * stride, true, true, 16));
        check_conv2d(conv, Case(70, 72, 0, 32, 1, 1, 1, 13, 16, false, false));
      }
  // So large that it takes several bands of rows.
  const edgecomp_conv2d wide = {1, 64, 40, 30, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 0}, last = {1, 64, 40, 30, {3, 3}, {2, 2}, {0, 1}, {1, 1}, 1};
  for (const auto &conv : {wide, last}) {
    check_conv2d(conv, Case(64, 576, 0, 64, 1, 1, 4, 16, 8, true, false));
    check_conv2d(conv, Case(10, 576, 0, 8, 1, 1, 4, 64, 32, true, false));
  }
  for (int k : {2, 16, 243})
    for (int s : {1, 3, 4})
      for (int axis : {0, 1}) check_embedding(Case(21, 17, axis, 8, 1 + k % 2, s % 2, s, k, 32, s == 4, k == 16));
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
