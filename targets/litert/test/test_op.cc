// The custom ops on tensors: right results for right arguments, a message for wrong ones, never a stray read or write.
// Exits with 1 if anything fails.
#include <cmath>
#include <cstdio>
#include <random>

#include "../../kernels/codebook_conv2d/codebook_conv2d.h"
#include "../../kernels/recurrence/recurrence.h"
#include "../op.h"

using namespace edgecomp;

namespace {

std::mt19937 generator(1);
int checks = 0, failures = 0;

void expect(bool right, const char *what) {
  ++checks;
  if (right) return;
  ++failures;
  std::printf("wrong: %s\n", what);
}

// A dense layer or a convolution of 3 channels, 5 rows, 2×2, on a 6×7 image, k=4, s=3; an embedding of 5 rows.
struct Layer {
  Op op;
  std::vector<float> x = std::vector<float>(2 * 6 * 7 * 3), y, codebook = std::vector<float>(4 * 3 * 4), bias{1, 2, 3, 4, 5};
  std::vector<int32_t> index{0, 4, 2};
  std::vector<uint8_t> codes;
  std::vector<int32_t> settings{5, 0, 8, 0, 1, 32, 64, 0, 2, 2, 1, 2, 1, 0, 1, 1};
  std::vector<int8_t> extent = std::vector<int8_t>(16);
  std::vector<OpTensor> inputs;
  OpTensor output;

  explicit Layer(Op op) : op(op), codes(4 * 2) {  // four blocks of a tile of eight lanes, 2 bits each
    std::normal_distribution<float> normal;
    for (auto *values : {&x, &codebook})
      for (float &value : *values) value = normal(generator);
    for (uint8_t &byte : codes) byte = uint8_t(generator());
    if (op != Op::kConv2d) settings.resize(8);
    if (op == Op::kEmbedding) settings[4] = 0;
    const std::vector<int32_t> x_shape = op == Op::kConv2d ? std::vector<int32_t>{2, 6, 7, 3} : std::vector<int32_t>{21, 12};
    inputs = {op == Op::kEmbedding ? OpTensor{ElementType::kInt32, {3}, index.data()}
                                   : OpTensor{ElementType::kFloat32, x_shape, x.data()},
              {ElementType::kInt8, {int32_t(codes.size())}, codes.data()},
              {ElementType::kFloat32, {1, 4, 3, 4}, codebook.data()}};
    if (op != Op::kEmbedding) inputs.push_back({ElementType::kFloat32, {5}, bias.data()});
    inputs.push_back({ElementType::kInt32, {int32_t(settings.size())}, settings.data()});
    if (op == Op::kEmbedding) inputs.push_back({ElementType::kInt8, {12}, extent.data()});
    if (op == Op::kConv2d)
      for (int32_t size : {7, 3}) inputs.push_back({ElementType::kInt8, {size}, extent.data()});
    std::vector<std::vector<int32_t>> shapes;
    for (const OpTensor &tensor : inputs) shapes.push_back(tensor.shape);
    output = {ElementType::kFloat32, output_shape(op, shapes), nullptr};
    y.assign(size_t(output.elements()), NAN);
    output.data = y.data();
  }

  edgecomp_matrix matrix() const {
    return {5, 12, 0, 8, 1, 4, 3, 4, codes.data(), codebook.data(), 0, nullptr, op == Op::kEmbedding ? nullptr : bias.data(),
            32, 64, 0};
  }
};

void check_results() {
  for (Op op : {Op::kLinear, Op::kConv2d, Op::kEmbedding}) {
    Layer layer(op);
    expect(run_op(op, layer.inputs, layer.output).empty(), "right arguments are refused");
    const edgecomp_matrix w = layer.matrix();
    std::vector<float> exact(layer.y.size());
    if (op == Op::kConv2d) {
      const edgecomp_conv2d c = {2, 3, 6, 7, {2, 2}, {1, 2}, {1, 0}, {1, 1}, 1};
      edgecomp_conv2d_reference(&c, &w, layer.x.data(), exact.data());
    } else if (op == Op::kLinear) {
      edgecomp_linear_reference(&w, layer.x.data(), 21, exact.data());
    } else {
      for (int i = 0; i < 3; ++i)
        for (int column = 0; column < 12; ++column) {
          float unit[12] = {}, rows[5];
          unit[column] = 1;
          edgecomp_linear_reference(&w, unit, 1, rows);
          exact[i * 12 + column] = rows[layer.index[i]];
        }
    }
    for (size_t i = 0; i < exact.size(); ++i) expect(std::abs(exact[i] - layer.y[i]) < 1e-4, kOpNames[int(op)]);
  }
}

// Settings that no kernel knows.
void check_settings() {
  for (Op op : {Op::kLinear, Op::kConv2d, Op::kEmbedding})
    for (const auto &[place, value] : std::vector<std::pair<int, int32_t>>{
             {5, 1}, {5, 4}, {5, 24}, {5, -8}, {5, 64}, {6, 0}, {6, 8}, {6, 48}, {6, 128}, {6, -64}, {7, 2}, {7, -1}}) {
      Layer layer(op);
      layer.settings[place] = value;
      expect(!run_op(op, layer.inputs, layer.output).empty(), "wrong table bits, table group or relu are accepted");
    }
}

constexpr ElementType kTypes[] = {ElementType::kInt8, ElementType::kUInt8, ElementType::kFloat16, ElementType::kInt32,
                                  ElementType::kFloat32};

bool is_byte(ElementType type) { return type == ElementType::kInt8 || type == ElementType::kUInt8; }

// An LSTM of 3 cells, 4 steps, a batch of 2, fp32 weights and a bias.
struct Lstm {
  std::vector<float> xp = std::vector<float>(4 * 2 * 12), h = std::vector<float>(6), c = h, y = std::vector<float>(5 * 6);
  std::vector<float> weights = std::vector<float>(12 * 3), bias = std::vector<float>(12);
  std::vector<int32_t> settings{0, 1, 1, 32, 12, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  std::vector<OpTensor> inputs;
  OpTensor output = {ElementType::kFloat32, {5, 2, 3}, y.data()};

  Lstm() {
    std::normal_distribution<float> normal;
    for (auto *values : {&xp, &h, &c, &weights, &bias})
      for (float &value : *values) value = normal(generator);
    inputs = {{ElementType::kFloat32, {4, 2, 12}, xp.data()}, {ElementType::kFloat32, {2, 3}, h.data()},
              {ElementType::kFloat32, {2, 3}, c.data()},      {ElementType::kFloat32, {12, 3}, weights.data()},
              {ElementType::kFloat32, {12}, bias.data()},     {ElementType::kInt32, {17}, settings.data()}};
  }
};

void check_recurrence() {
  Lstm lstm;
  expect(output_shape(Op::kRecurrence, {{4, 2, 12}, {2, 3}, {2, 3}, {12, 3}}) == lstm.output.shape, "shape of an LSTM");
  expect(output_shape(Op::kRecurrence, {{4, 2, 9}, {2, 3}, {9, 3}, {17}}) == std::vector<int32_t>{4, 2, 3}, "of a GRU");
  expect(output_shape(Op::kRecurrence, {{4, 12}, {2, 3}, {2, 3}, {12, 3}}).empty(), "inputs of rank 2 are accepted");
  expect(run_op(Op::kRecurrence, lstm.inputs, lstm.output).empty(), "right arguments are refused");
  edgecomp_recurrence r = {EDGECOMP_LSTM, 1, 4, 2, 3, 1, {}};
  r.factors[0].bits = 32, r.factors[0].w.rows = 12, r.factors[0].w.columns = 3, r.factors[0].w.bias = lstm.bias.data();
  r.factors[0].w.codes = reinterpret_cast<const uint8_t *>(lstm.weights.data());
  std::vector<float> exact(lstm.y.size());
  edgecomp_recurrence_reference(&r, lstm.xp.data(), lstm.h.data(), lstm.c.data(), exact.data());
  for (size_t i = 0; i < exact.size(); ++i) expect(std::abs(exact[i] - lstm.y[i]) < 1e-5, kOpNames[3]);
  int refused = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    Lstm damaged;
    OpTensor &tensor = damaged.inputs[generator() % damaged.inputs.size()];
    switch (generator() % 4) {
      case 0: damaged.settings[generator() % 17] = int32_t(generator() % 2 ? generator() % 16 : generator()) - 2; break;
      case 1: tensor.type = ElementType::kFloat16; break;
      case 2: --tensor.shape[0]; break;
      default: damaged.inputs.erase(damaged.inputs.begin() + generator() % damaged.inputs.size());
    }
    refused += !run_op(Op::kRecurrence, damaged.inputs, damaged.output).empty();
  }
  expect(refused > 3000, "damaged arguments of a recurrence are hardly ever refused");
}

// Damaged files: settings, shapes and types that are anything. Whatever is accepted must stay within the buffers.
void check_damage() {
  int refused = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    Layer layer(Op(trial % 3));
    for (int change = 0; change < 1 + trial % 2; ++change) {
      OpTensor &tensor = layer.inputs[generator() % layer.inputs.size()];
      const int32_t value = int32_t(generator() % 2 ? generator() % 16 : generator()) - 2;
      switch (generator() % 4) {
        case 0: layer.settings[generator() % layer.settings.size()] = value; break;
        // Only ever fewer bytes than the buffer has: that much the runtimes check.
        case 1: tensor.type = kTypes[generator() % (is_byte(tensor.type) ? 2 : 5)]; break;
        case 2: tensor.shape.resize(tensor.shape.size() / 2); break;
        default: layer.inputs.erase(layer.inputs.begin() + generator() % layer.inputs.size());
      }
    }
    refused += !run_op(layer.op, layer.inputs, layer.output).empty();
  }
  expect(refused > 10000, "damaged arguments are hardly ever refused");
}

}  // namespace

int main() {
  check_results();
  check_settings();
  check_damage();
  check_recurrence();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
