// The custom ops on arguments made of arbitrary bytes, every tensor in a buffer of its exact size: whatever is accepted
// must neither read nor write beyond. Build it with -fsanitize=address,undefined; alone it runs random bytes,
//
//   clang++ -std=c++17 -g -fsanitize=fuzzer,address,undefined -DEDGECOMP_LIBFUZZER fuzz_op.cc ../op.cc KERNELS
//
// makes a libFuzzer program of it, which looks for bytes that reach more of the code.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "../../kernels/codebook_conv2d/codebook_conv2d.h"
#include "../../kernels/recurrence/recurrence.h"
#include "../../kernels/test_bytes.h"
#include "../op.h"

using namespace edgecomp;
using edgecomp_test::Bytes;

namespace {

constexpr int64_t kMostBytes = 1 << 16;  // of a tensor: larger ones show nothing new

int64_t bytes_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
    case ElementType::kInt32: return 4;
    case ElementType::kInt64: return 8;
    case ElementType::kFloat16: return 2;
    default: return 1;
  }
}

// Tensors in memory of their own; none where a shape makes no sense, which the runtimes would not load.
struct Tensors {
  std::vector<OpTensor> all;
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<int64_t> sizes;

  bool add(Bytes &bytes, ElementType type, const std::vector<int64_t> &shape) {
    OpTensor tensor = {type, {}, nullptr};
    int64_t size = bytes_of(type);
    for (int64_t side : shape) {
      tensor.shape.push_back(bytes.mostly(side));
      if (tensor.shape.back() < 0 || tensor.shape.back() > kMostBytes) return false;
      if ((size *= tensor.shape.back()) > kMostBytes) return false;
    }
    memory.push_back(std::make_unique<uint8_t[]>(size_t(size))), sizes.push_back(size);
    tensor.data = memory.back().get();
    bytes.fill(memory.back().get(), size_t(size));
    all.push_back(tensor);
    return true;
  }
};

// Calls an op; 1 if it accepts the tensors.
int finish(Op op, Bytes &bytes, Tensors &tensors) {
  if (bytes.seldom()) tensors.all[bytes.next() % tensors.all.size()].type = ElementType(bytes.from({1, 3, 9}));
  for (size_t i = 0; i < tensors.all.size(); ++i)  // that much the runtimes check
    if (tensors.all[i].elements() * bytes_of(tensors.all[i].type) > tensors.sizes[i]) return 0;
  std::vector<std::vector<int32_t>> shapes;
  for (const OpTensor &tensor : tensors.all) shapes.push_back(tensor.shape);
  std::vector<int64_t> shape;
  for (int32_t side : output_shape(op, shapes)) shape.push_back(side);
  if (shape.empty() || !tensors.add(bytes, ElementType::kFloat32, shape)) return 0;
  const OpTensor output = tensors.all.back();
  tensors.all.pop_back();
  return run_op(op, tensors.all, output).empty();
}

// Adds settings; false if there is no memory for so many.
bool add_settings(Bytes &bytes, Tensors &tensors, const std::vector<int32_t> &settings) {
  if (!tensors.add(bytes, ElementType::kInt32, {int64_t(settings.size())})) return false;
  if (tensors.all.back().shape[0] > int32_t(settings.size())) return false;
  for (int32_t i = 0; i < tensors.all.back().shape[0]; ++i)
    static_cast<int32_t *>(tensors.all.back().data)[i] = bytes.mostly(settings[i]);
  return true;
}

// A recurrence of one or two factors of any kind.
int call_recurrence(Bytes &bytes) {
  const int32_t kind = bytes.between(0, 3), hidden = bytes.between(1, 40), batch = bytes.between(1, 5);
  const int32_t steps = bytes.between(1, 4), rows = edgecomp_recurrence_gates(kind) * hidden, factors = bytes.between(1, 2);
  std::vector<int32_t> settings = {kind, bytes.next() % 2, factors};
  Tensors tensors;
  const auto add = [&](ElementType type, const std::vector<int64_t> &shape) { return tensors.add(bytes, type, shape); };
  bool made = add(ElementType::kFloat32, {steps, batch, rows}) && add(ElementType::kFloat32, {batch, hidden});
  if (kind == EDGECOMP_LSTM) made = made && add(ElementType::kFloat32, {batch, hidden});
  int32_t columns = hidden;
  for (int32_t i = 0; i < factors; ++i) {
    const int32_t bits = bytes.from({0, 0, 2, 4, 8, 32}), half = bytes.next() % 2, bias = bytes.next() % 2;
    const int32_t scale = bits == 32 ? 0 : bits ? 1 : bytes.next() % 2;
    edgecomp_matrix w = {};
    w.rows = i + 1 < factors ? bytes.between(1, 40) : rows, w.columns = columns, columns = w.rows;
    if (bits == 0) {
      w.axis = bytes.next() % 4 == 0, w.tile = bytes.from({8, 16, 32, 64, 128});
      w.stages = bytes.between(1, 2), w.segment = bytes.between(1, 9), w.codewords = bytes.from({2, 5, 16, 16, 40, 256});
      w.groups = bytes.next() % 2 ? 1 : edgecomp_blocks(&w);
      w.table_bits = bytes.from({EDGECOMP_DOT, 8, 16, 32}), w.table_group = bytes.from({16, 32, 64});
      made = made && add(ElementType::kInt8, {int64_t(edgecomp_codes_bytes(&w))});
      made = made && add(half ? ElementType::kFloat16 : ElementType::kFloat32, {w.stages, w.groups, w.segment, w.codewords});
    } else {
      made = made && (bits == 32 ? add(ElementType::kFloat32, {w.rows, w.columns})
                                 : add(ElementType::kInt8, {(int64_t(w.rows) * w.columns * bits + 7) / 8}));
    }
    for (int32_t vectors = scale + bias; vectors > 0; --vectors) made = made && add(ElementType::kFloat32, {w.rows});
    settings.insert(settings.end(), {bits, w.rows, w.columns, w.axis, w.tile, w.stages, w.groups, w.segment, w.codewords,
                                     half, w.table_bits, w.table_group, scale, bias});
  }
  return made && add_settings(bytes, tensors, settings) ? finish(Op::kRecurrence, bytes, tensors) : 0;
}

// One call with what the bytes say; mostly one that fits together. 1: it was accepted.
int call(Bytes bytes) {
  const Op op = Op(bytes.between(0, 3));
  if (op == Op::kRecurrence) return call_recurrence(bytes);
  const bool conv = op == Op::kConv2d, scale = bytes.next() % 2, bias = bytes.next() % 2 || !scale;
  const ElementType book = bytes.next() % 2 ? ElementType::kFloat16 : ElementType::kFloat32;
  const int32_t kernel = conv ? bytes.between(1, 3) : 1, channels = bytes.between(1, 70), size = bytes.between(1, 9);
  edgecomp_matrix w = {};
  w.rows = bytes.between(1, 140), w.columns = kernel * kernel * channels;
  w.axis = bytes.next() % 4 == 0, w.tile = bytes.from({8, 16, 32, 64, 128});
  w.stages = bytes.between(1, 2), w.segment = bytes.between(1, 9), w.codewords = bytes.from({2, 3, 5, 8, 11, 16, 16, 40, 256});
  w.groups = bytes.next() % 2 ? 1 : edgecomp_blocks(&w);
  std::vector<int32_t> settings = {w.rows, w.axis, w.tile, scale, bias, bytes.from({EDGECOMP_DOT, 8, 16, 32}), bytes.from({16, 32, 64}),
                                   bytes.next() % 2};
  const int32_t stride = bytes.between(1, 2), padding = bytes.between(0, 2), dilation = bytes.between(1, 2);
  if (conv) settings.insert(settings.end(), {kernel, kernel, stride, stride, padding, padding, dilation, dilation});
  const edgecomp_conv2d c = {1, channels, size, size, {kernel, kernel}, {stride, stride}, {padding, padding},
                             {dilation, dilation}, 1};
  const int64_t out[] = {edgecomp_conv2d_output(&c, 0), edgecomp_conv2d_output(&c, 1)};

  Tensors tensors;
  const auto add = [&](ElementType type, const std::vector<int64_t> &shape) { return tensors.add(bytes, type, shape); };
  bool made = op == Op::kEmbedding ? add(bytes.next() % 2 ? ElementType::kInt32 : ElementType::kInt64, {size})
              : conv               ? add(ElementType::kFloat32, {1, size, size, channels})
                                   : add(ElementType::kFloat32, {size, w.columns});
  made = made && add(ElementType::kInt8, {int64_t(edgecomp_codes_bytes(&w))});
  made = made && add(book, {w.stages, w.groups, w.segment, w.codewords});
  if (scale) made = made && add(ElementType::kFloat32, {w.rows});
  if (bias) made = made && add(ElementType::kFloat32, {w.rows});
  if (!made || !add_settings(bytes, tensors, settings)) return 0;
  if (conv) made = add(ElementType::kInt8, {out[0]}) && add(ElementType::kInt8, {out[1]});
  if (op == Op::kEmbedding) {
    made = add(ElementType::kInt8, {w.columns});
    uint8_t *index = static_cast<uint8_t *>(tensors.all[0].data);
    for (int32_t i = 0; bytes.next() % 8 && i < tensors.all[0].elements(); ++i) {
      const int64_t row = bytes.mostly(bytes.next() % w.rows);
      std::memcpy(index + i * bytes_of(tensors.all[0].type), &row, size_t(bytes_of(tensors.all[0].type)));
    }
  }
  if (!made) return 0;
  return finish(op, bytes, tensors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  call(Bytes(data, size));
  return 0;
}

#ifndef EDGECOMP_LIBFUZZER
// fuzz_op [CALLS [SEED]]
int main(int count, char **arguments) { return edgecomp_test::run_random(count, arguments, call); }
#endif
