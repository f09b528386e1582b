#include "recurrence.h"

#include "../codebook_linear/common.h"
#include "weights.h"

namespace edgecomp {
namespace {

constexpr int kRows = 32;                   // of a factor that a thread takes at a time
constexpr int kColumns = 256;               // integer weights unpacked at a time
constexpr int64_t kWorthThreads = 1 << 16;  // multiply-adds: below, waking threads takes longer

// Sums in four registers: compilers may not change the order of floating-point sums to use them.
float dot(const float *a, const float *b, int count) {
  typedef float Vector __attribute__((vector_size(16)));
  constexpr int kVectors = 4, kLanes = 4;
  Vector sums[kVectors] = {};
  int i = 0;
  for (; i + kVectors * kLanes <= count; i += kVectors * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vector x, y;
      std::memcpy(&x, a + i + v * kLanes, sizeof(Vector));
      std::memcpy(&y, b + i + v * kLanes, sizeof(Vector));
      sums[v] += x * y;
    }
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = (all[0] + all[1]) + (all[2] + all[3]);
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

int32_t dot(const int8_t *a, const int16_t *b, int count) {
  int32_t sum = 0;
  for (int i = 0; i < count; ++i) sum += int32_t(a[i]) * b[i];
  return sum;
}

int32_t integer_dot(const edgecomp_factor &factor, int row, const int16_t *x) {
  const int columns = factor.w.columns;
  const int64_t first = int64_t(row) * columns;
  if (factor.bits == 8) return dot(reinterpret_cast<const int8_t *>(factor.w.codes) + first, x, columns);
  int32_t sum = 0;
  for (int column = 0; column < columns; column += kColumns) {
    int8_t weights[kColumns];
    const int count = std::min(kColumns, columns - column);
    unpack_integers(factor, first + column, count, weights);
    sum += dot(weights, x + column, count);
  }
  return sum;
}

// Calls work(row) for all rows.
template <class Work>
void for_rows(int rows, const edgecomp_threads *threads, const Work &work) {
  for_each(threads, edgecomp_divide_up(rows, kRows), [&](size_t part) {
    const int first = int(part) * kRows, end = std::min(rows - first, kRows) + first;
    for (int row = first; row < end; ++row) work(row);
  });
}

void integer_product(const edgecomp_factor &factor, const float *x, int batch, float *y, int16_t *levels,
                     const edgecomp_threads *threads) {
  const edgecomp_matrix &w = factor.w;
  for (int b = 0; b < batch; ++b, x += w.columns, y += w.rows) {
    const Grid grid(x, w.columns);
    for (int i = 0; i < w.columns; ++i) levels[i] = grid(x[i]);
    for_rows(w.rows, threads, [&](int row) {
      y[row] = finished(w, row, float(integer_dot(factor, row, levels)) * grid.scale);
    });
  }
}

void plain_product(const edgecomp_matrix &w, const float *x, int batch, float *y, const edgecomp_threads *threads) {
  const float *weights = reinterpret_cast<const float *>(w.codes);
  for_rows(w.rows, threads, [&](int row) {
    for (int b = 0; b < batch; ++b)
      y[size_t(b) * w.rows + row] =
          finished(w, row, dot(weights + size_t(row) * w.columns, x + size_t(b) * w.columns, w.columns));
  });
}

void multiply(const edgecomp_factor &factor, const float *x, int batch, float *y, void *scratch,
              const edgecomp_threads *threads) {
  const edgecomp_matrix &w = factor.w;
  if (int64_t(w.rows) * w.columns < kWorthThreads) threads = nullptr;
  if (factor.bits == 0) edgecomp_linear_run(&w, x, batch, y, scratch, threads);
  else if (factor.bits == 32) plain_product(w, x, batch, y, threads);
  else integer_product(factor, x, batch, y, static_cast<int16_t *>(scratch), threads);
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// One sample's next h; `c` is changed in place.
void step(int kind, int size, const float *x, const float *gates, const float *h, float *c, float *y) {
  for (int i = 0; i < size; ++i) {
    const auto gate = [&](int number) { return x[number * size + i] + gates[number * size + i]; };
    if (kind == EDGECOMP_LSTM) {
      c[i] = sigmoid(gate(1)) * c[i] + sigmoid(gate(0)) * std::tanh(gate(2));
      y[i] = sigmoid(gate(3)) * std::tanh(c[i]);
    } else if (kind == EDGECOMP_GRU) {
      const float z = sigmoid(gate(1)), n = std::tanh(x[2 * size + i] + sigmoid(gate(0)) * gates[2 * size + i]);
      y[i] = (1 - z) * n + z * h[i];
    } else {
      y[i] = kind == EDGECOMP_RNN_TANH ? std::tanh(gate(0)) : std::max(gate(0), 0.0f);
    }
  }
}

// Bytes for what one factor gives, twice, as outputs of one are inputs of the next.
size_t product_bytes(const edgecomp_recurrence &r) {
  size_t most = 0;
  for (int i = 0; i < r.count; ++i) most = std::max(most, size_t(r.batch) * r.factors[i].w.rows * sizeof(float));
  return aligned(most);
}

}  // namespace
}  // namespace edgecomp

using namespace edgecomp;

size_t edgecomp_recurrence_scratch_bytes(const edgecomp_recurrence *r) {
  size_t most = 0;
  for (int i = 0; i < r->count; ++i) {
    const edgecomp_factor &factor = r->factors[i];
    most = std::max(most, factor.bits == 0 ? edgecomp_linear_scratch_bytes(&factor.w, r->batch)
                                           : size_t(factor.w.columns) * sizeof(int16_t));
  }
  return 2 * product_bytes(*r) + most;
}

void edgecomp_recurrence_run(const edgecomp_recurrence *r, const float *xp, const float *h0, const float *c0, float *y,
                             void *scratch, const edgecomp_threads *threads) {
  const size_t state = size_t(r->batch) * r->hidden, inputs = state * edgecomp_recurrence_gates(r->kind);
  char *const memory = static_cast<char *>(scratch);
  float *const products[] = {reinterpret_cast<float *>(memory), reinterpret_cast<float *>(memory + product_bytes(*r))};
  float *const cells = y + r->steps * state;
  if (r->kind == EDGECOMP_LSTM) std::copy_n(c0, state, cells);
  const float *h = h0;
  for (int done = 0; done < r->steps; ++done) {
    const size_t t = r->reverse ? r->steps - 1 - done : done;
    const float *gates = h;
    for (int i = 0; i < r->count; ++i) {
      multiply(r->factors[i], gates, r->batch, products[i % 2], memory + 2 * product_bytes(*r), threads);
      gates = products[i % 2];
    }
    for (int b = 0; b < r->batch; ++b) {
      const size_t sample = size_t(b) * r->hidden, gate = sample * edgecomp_recurrence_gates(r->kind);
      float *const c = r->kind == EDGECOMP_LSTM ? cells + sample : nullptr;
      step(r->kind, r->hidden, xp + t * inputs + gate, gates + gate, h + sample, c, y + t * state + sample);
    }
    h = y + t * state;
  }
}
