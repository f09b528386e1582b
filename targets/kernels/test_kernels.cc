// Compares the kernels, in every implementation that this processor can run, with their plain twins, on random matrices at
// the edges of the SIMD code. Exits 1 on a mismatch. Buffers end where memory ends, so that any step behind them is a crash.
#include <memory>
#include <vector>

#include "codebook_embedding/codebook_embedding.h"
#include "codebook_linear/simd.h"
#include "recurrence/recurrence.h"
#include "test_matrices.h"

namespace {

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

// Settings and constants of a recurrence, as a file has them.
struct Recurrence {
  std::vector<int32_t> settings;
  std::vector<edgecomp_constant> constants;
  std::vector<Case> cases;
  std::vector<Buffer<char>> memory;

  Recurrence(int kind, int reverse) : settings{kind, reverse, 0} {}

  // Normal numbers of about 1/sqrt(columns), so that gates are neither 0 nor 1.
  void add_floats(int64_t count, int columns) {
    memory.emplace_back(size_t(count) * sizeof(float));
    float *values = reinterpret_cast<float *>(memory.back().data());
    for (int64_t i = 0; i < count; ++i) values[i] = normal() / std::sqrt(float(columns));
    constants.push_back({values, count, 4});
  }

  void add_weights(int bits, int rows, int columns, bool bias) {
    const int64_t count = int64_t(rows) * columns;
    settings.insert(settings.end(), {bits, rows, columns, 0, 0, 0, 0, 0, 0, 0, 0, 0, bits != 32, bias});
    ++settings[2];
    if (bits == 32) {
      add_floats(count, columns);
    } else {
      memory.emplace_back(size_t(count * bits + 7) / 8);
      for (char &byte : memory.back()) byte = char(generator());
      constants.push_back({memory.back().data(), int64_t(memory.back().size()), 1});
      add_floats(rows, columns << 2 * (bits - 1));
    }
    if (bias) add_floats(rows, 1);
  }

  // Codes with a scale and a bias.
  void add_codes(int rows, int columns, int k, int s, int axis, int table_bits) {
    cases.emplace_back(rows, columns, axis, 32, 1, 0, s, k, table_bits, true, false);
    const edgecomp_matrix &w = cases.back().w;
    settings.insert(settings.end(), {0, rows, columns, axis, 32, 1, w.groups, s, k, 1, table_bits, 64, 1, 1});
    ++settings[2];
    constants.push_back({cases.back().codes.data(), int64_t(cases.back().codes.size()), 1});
    constants.push_back({cases.back().codebook.data(), int64_t(cases.back().codebook.size() / 2), 2});
    add_floats(rows, columns);
    add_floats(rows, 1);
  }

  bool read(const int32_t *shape, edgecomp_recurrence *r) const {
    return edgecomp_recurrence_read(settings.data(), settings.size(), constants.data(), constants.size(), shape, r);
  }
};

void refused(bool accepted, const char *what) {
  ++checks;
  if (!accepted) return;
  ++failures;
  std::printf("sizes: %s is accepted\n", what);
}

void check_recurrence(const Recurrence &given, int steps, int batch, int hidden, float limit) {
  const int kind = given.settings[0], gates = edgecomp_recurrence_gates(kind) * hidden;
  const int32_t shape[] = {steps, batch, gates, hidden};
  edgecomp_recurrence r;
  if (!given.read(shape, &r)) return refused(true, "nothing, what fits together too");
  Buffer<float> xp(size_t(steps) * batch * gates), h0(size_t(batch) * hidden), c0(kind ? 0 : h0.size());
  for (const auto *values : {&xp, &h0, &c0})
    for (float &value : *values) value = normal();
  Buffer<float> exact(edgecomp_recurrence_outputs(&r));
  edgecomp_recurrence_reference(&r, xp.data(), h0.data(), c0.data(), exact.data());
  in_every_way([&](const edgecomp_threads *threads) {
    Buffer<float> got(exact.size());
    Buffer<char> scratch(edgecomp_recurrence_scratch_bytes(&r) + 63);
    void *memory = scratch.data();
    size_t space = scratch.size();
    edgecomp_recurrence_run(&r, xp.data(), h0.data(), c0.data(), got.data(), std::align(64, 1, memory, space), threads);
    for (size_t i = 0; i < exact.size(); ++i) {
      ++checks;
      if (!(std::abs(exact[i] - got[i]) <= limit) && ++failures < 20)
        std::printf("%s recurrence kind %d bits %d factors %d steps %d batch %d hidden %d: %g instead of %g\n",
                    edgecomp::simd_best().name, kind, given.settings[3], r.count, steps, batch, hidden, got[i], exact[i]);
    }
  });
}

void check_recurrences() {
  for (int kind = 0; kind < 4; ++kind)
    for (int reverse : {0, 1}) {
      const int hidden = 21 + 12 * reverse, rows = edgecomp_recurrence_gates(kind) * hidden, batch = 1 + (kind + reverse) % 5;
      const auto made = [&](auto add) {
        Recurrence recurrence(kind, reverse);
        add(recurrence);
        return recurrence;
      };
      const auto check = [&](float limit, auto add) { check_recurrence(made(add), 9, batch, hidden, limit); };
      check(1e-4f, [&](Recurrence &r) { r.add_weights(32, rows, hidden, reverse); });
      for (int bits : {8, 4, 2}) check(0.05f, [&](Recurrence &r) { r.add_weights(bits, rows, hidden, true); });
      check(1e-3f, [&](Recurrence &r) { r.add_codes(rows, hidden, 40, 3, reverse, 32); });
      check(0.02f, [&](Recurrence &r) { r.add_codes(rows, hidden, 16, 4, 0, 16); });
      check(0.05f, [&](Recurrence &r) { r.add_weights(8, 7, hidden, false), r.add_codes(rows, 7, 16, 2, 0, 32); });
      check(1e-3f, [&](Recurrence &r) { r.add_weights(32, 40, hidden, false), r.add_weights(32, rows, 40, true); });
    }
  Recurrence wide(EDGECOMP_GRU, 0);  // so large that threads share a step, and integers are unpacked in several parts
  wide.add_weights(4, 900, 300, true);
  check_recurrence(wide, 3, 1, 300, 0.05f);
}

// Sizes whose products do not fit into 64 bits.
void check_products() {
  const int64_t most = EDGECOMP_MOST_ELEMENTS;
  refused(edgecomp_product(1 << 20, 1 << 20) != most || edgecomp_product(0, INT64_MAX) != 0, "a wrong product");
  for (int64_t large : {most + 1, int64_t(1) << 62, INT64_MAX}) {
    refused(edgecomp_product(large, 1) >= 0 || edgecomp_product(2, large) >= 0, "a product that is too large");
    refused(edgecomp_product(-1, large) >= 0 || edgecomp_product(large, -1) >= 0, "a negative size");
  }
  // 2^44 channels x positions leave 2^64: what a product of 64 bits without a check takes for 16 columns.
  edgecomp_conv2d conv = {1, (1 << 24) + 1, 1 << 20, 1 << 20, {1 << 20, 1 << 20}, {1, 1}, {0, 0}, {1, 1}, 1};
  refused(edgecomp_conv2d_columns(&conv) >= 0, "channels x positions that wrap");
  for (int axis : {0, 1})
    for (int32_t rows : {INT32_MAX, 1 << 24})
      for (int32_t columns : {INT32_MAX, 1 << 24}) {
        edgecomp_matrix w = {rows, columns, axis, 8, 16, 1, 1, 256, nullptr, nullptr, 0, nullptr, nullptr, 32, 64, 0};
        refused(edgecomp_matrix_is_valid(&w), "a matrix whose codes no memory holds");
        w.rows = 8, w.columns = 1 << 24;
        refused(!edgecomp_matrix_is_valid(&w) || edgecomp_codes_bytes(&w) != uint64_t(8) << 28, "nothing");
      }
}

// Sizes that do not fit together, or whose products overflow.
void check_recurrence_limits() {
  const int32_t shape[] = {5, 2, 84, 21};
  edgecomp_recurrence r;
  Recurrence right(EDGECOMP_LSTM, 0);
  right.add_weights(32, 84, 21, true);
  refused(!right.read(shape, &r), "nothing");
  for (size_t place = 0; place < right.settings.size(); ++place)
    for (int32_t value : {-1, 5, 85, 1 << 30, INT32_MAX}) {
      if (place >= 6 && place < 15) continue;  // those of codes
      Recurrence wrong(EDGECOMP_LSTM, 0);
      wrong.settings = right.settings, wrong.constants = right.constants;
      wrong.settings[place] = value;
      refused(wrong.read(shape, &r), "a wrong setting");
    }
  for (int side = 0; side < 4; ++side)
    for (int32_t value : {-1, 0, INT32_MAX}) {
      int32_t wrong[] = {shape[0], shape[1], shape[2], shape[3]};
      wrong[side] = value;
      if (side < 2 && value == INT32_MAX) wrong[1 - side] = 1 << 20;  // a product beyond 2^40
      refused(right.read(wrong, &r), "a wrong shape");
    }
  for (size_t i = 0; i < right.constants.size(); ++i) {
    Recurrence wrong(EDGECOMP_LSTM, 0);
    wrong.settings = right.settings, wrong.constants = right.constants;
    wrong.constants[i].elements -= 1;
    refused(wrong.read(shape, &r), "a constant that is too small");
    wrong.constants.erase(wrong.constants.begin() + i);
    refused(wrong.read(shape, &r), "a missing constant");
  }
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
  check_recurrences();
  check_recurrence_limits();
  check_products();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
