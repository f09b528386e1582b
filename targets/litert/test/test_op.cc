// The custom ops on tensors: right results for right arguments, a message for wrong ones, never a stray read or write.
// Exits with 1 if anything fails.
#include <cmath>
#include <cstdio>
#include <random>

#include "../../kernels/codebook_conv2d/codebook_conv2d.h"
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
  std::vector<int32_t> settings{5, 0, 8, 0, 1, 2, 2, 1, 2, 1, 0, 1, 1};
  std::vector<int8_t> extent = std::vector<int8_t>(16);
  std::vector<OpTensor> inputs;
  OpTensor output;

  explicit Layer(Op op) : op(op), codes(4 * 2) {  // four blocks of a tile of eight lanes, 2 bits each
    std::normal_distribution<float> normal;
    for (auto *values : {&x, &codebook})
      for (float &value : *values) value = normal(generator);
    for (uint8_t &byte : codes) byte = uint8_t(generator());
    if (op == Op::kLinear) settings.resize(5);
    if (op == Op::kEmbedding) settings = {5, 0, 8, 0, 0};
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
    return {5, 12, 0, 8, 1, 4, 3, 4, codes.data(), codebook.data(), 0, nullptr, op == Op::kEmbedding ? nullptr : bias.data(), 8, 64, 0};
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

constexpr ElementType kTypes[] = {ElementType::kInt8, ElementType::kUInt8, ElementType::kFloat16, ElementType::kInt32,
                                  ElementType::kFloat32};

bool is_byte(ElementType type) { return type == ElementType::kInt8 || type == ElementType::kUInt8; }

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
  check_damage();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
