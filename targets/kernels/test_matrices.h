// What the tests of the kernels share: random matrices, in buffers that end where memory ends, so that any step behind them is a
// crash; two threads; and counts.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "codebook_conv2d/codebook_conv2d.h"

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

}  // namespace
