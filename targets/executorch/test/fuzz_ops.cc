// ExecuTorch's custom ops, called as the runtime calls them, on arguments made of arbitrary bytes: kinds, shapes, types,
// orders and numbers, every tensor and all scratch memory in buffers of their exact size. Whatever is accepted must
// neither read nor write beyond; nothing may abort. Build it with -fsanitize=address,undefined and libexecutorch.so.
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <cstring>
#include <memory>

#include "../../kernels/codebook_conv2d/codebook_conv2d.h"
#include "../../kernels/recurrence/recurrence.h"
#include "../../kernels/test_bytes.h"

using edgecomp_test::Bytes;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::runtime::BoxedEvalueList;
using executorch::runtime::EValue;

namespace {

constexpr int64_t kMostBytes = 1 << 16;  // of a tensor: larger ones show nothing new

int64_t bytes_of(ScalarType type) {
  switch (type) {
    case ScalarType::Long: return 8;
    case ScalarType::Float: return 4;
    case ScalarType::Half: return 2;
    default: return 1;
  }
}

// Scratch memory, each piece in a block of its own.
class Scratch : public executorch::runtime::MemoryAllocator {
 public:
  Scratch() : MemoryAllocator(0, nullptr) {}

  void *allocate(size_t size, size_t alignment) override {
    if (size > 1 << 24) return nullptr;
    blocks_.emplace_back(std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment), std::free);
    return blocks_.back().get();
  }

 private:
  std::vector<std::unique_ptr<void, void (*)(void *)>> blocks_;
};

struct Stored {
  std::vector<int32_t> sizes, strides;
  std::vector<uint8_t> order;
  std::unique_ptr<uint8_t[]> memory;
  std::unique_ptr<TensorImpl> tensor;
};

struct IntList {
  std::vector<EValue> values;
  std::vector<EValue *> pointers;
  std::vector<int64_t> numbers;
  std::unique_ptr<BoxedEvalueList<int64_t>> list;
};

// The arguments of one call. `good`: none makes no sense, which the runtime would not load.
class Arguments {
 public:
  explicit Arguments(Bytes &bytes) : bytes_(bytes) {}

  bool good = true;

  void none() { values_.emplace_back(); }
  void integer(int64_t value) { values_.emplace_back(int64_t(bytes_.mostly(value))); }
  void boolean(bool value) { values_.emplace_back(value); }
  void tensor(ScalarType type, const std::vector<int64_t> &shape) {
    if (Stored *stored = make(type, shape)) values_.emplace_back(Tensor(stored->tensor.get()));
  }
  void integers(const std::vector<int64_t> &numbers) {
    auto list = std::make_unique<IntList>();
    for (int64_t number : numbers) list->values.emplace_back(int64_t(bytes_.mostly(number)));
    if (bytes_.seldom()) list->values[bytes_.next() % list->values.size()] = EValue(1.5);
    if (bytes_.seldom()) list->values.pop_back();
    for (EValue &value : list->values) list->pointers.push_back(&value);
    list->numbers.resize(numbers.size());
    list->list = std::make_unique<BoxedEvalueList<int64_t>>(list->pointers.data(), list->numbers.data(),
                                                            int(list->pointers.size()));
    values_.emplace_back(list->list.get());
    lists_.push_back(std::move(list));
  }
  // The last `count` arguments become one, a list of tensors.
  void as_list(size_t count) {
    if (!good) return;
    for (size_t i = values_.size() - count; i < values_.size(); ++i) listed_.push_back(values_[i]);
    values_.resize(values_.size() - count);
    if (bytes_.seldom() && !listed_.empty()) listed_[bytes_.next() % listed_.size()] = EValue(int64_t(3));
    for (EValue &value : listed_) listed_pointers_.push_back(&value);
    unwrapped_ = static_cast<Tensor *>(std::calloc(listed_.size() + 1, sizeof(Tensor)));
    tensors_ = std::make_unique<BoxedEvalueList<Tensor>>(listed_pointers_.data(), unwrapped_, int(listed_.size()));
    values_.emplace_back(tensors_.get());
  }
  // Memory of the first tensor, and its bytes.
  std::pair<uint8_t *, size_t> first() { return {stored_.front()->memory.get(), stored_.front()->tensor->nbytes()}; }

  // 1 if the op accepts them.
  int call(const char *name) {
    if (!good) return 0;
    if (bytes_.seldom()) {  // of another kind
      EValue &value = values_[bytes_.next() % values_.size()];
      switch (bytes_.next() % 5) {
        case 0: value = EValue(); break;
        case 1: value = EValue(int64_t(bytes_.next())); break;
        case 2: value = EValue(0.5); break;
        case 3: value = EValue(true); break;
        default: value = EValue(values_[bytes_.next() % values_.size()]);
      }
    }
    std::vector<EValue *> stack;
    for (EValue &value : values_) stack.push_back(&value);
    if (bytes_.seldom()) stack.pop_back();
    Scratch scratch;
    executorch::runtime::KernelRuntimeContext context(nullptr, &scratch);
    const auto op = executorch::runtime::get_op_function_from_registry(name);
    if (!op.ok()) std::abort();
    (*op)(context, {stack.data(), stack.size()});
    return context.failure_state() == executorch::runtime::Error::Ok;
  }

  ~Arguments() {
    values_.clear();
    std::free(unwrapped_);
  }

 private:
  Stored *make(ScalarType type, const std::vector<int64_t> &shape) {
    auto stored = std::make_unique<Stored>();
    if (bytes_.seldom()) type = ScalarType(bytes_.from({0, 1, 4, 5, 6}));
    int64_t size = bytes_of(type);
    for (int64_t side : shape) {
      stored->sizes.push_back(bytes_.mostly(side));
      if (stored->sizes.back() < 0 || stored->sizes.back() > kMostBytes || (size *= stored->sizes.back()) > kMostBytes)
        return good = false, nullptr;
    }
    for (size_t i = 0; i < shape.size(); ++i) stored->order.push_back(uint8_t(i));
    if (bytes_.seldom() && shape.size() > 1) std::swap(stored->order[0], stored->order[1]);
    stored->strides.assign(shape.size(), 1);
    for (size_t i = shape.size(); i > 1; --i)
      stored->strides[stored->order[i - 2]] = stored->strides[stored->order[i - 1]] * stored->sizes[stored->order[i - 1]];
    stored->memory = std::make_unique<uint8_t[]>(size_t(size));
    bytes_.fill(stored->memory.get(), size_t(size));
    void *const data = bytes_.seldom() && bytes_.seldom() ? nullptr : stored->memory.get();
    stored->tensor = std::make_unique<TensorImpl>(type, ssize_t(shape.size()), stored->sizes.data(), data,
                                                  stored->order.data(), stored->strides.data());
    stored_.push_back(std::move(stored));
    return stored_.back().get();
  }

  Bytes &bytes_;
  std::vector<std::unique_ptr<Stored>> stored_;
  std::vector<std::unique_ptr<IntList>> lists_;
  std::vector<EValue> listed_, values_;
  std::vector<EValue *> listed_pointers_;
  Tensor *unwrapped_ = nullptr;
  std::unique_ptr<BoxedEvalueList<Tensor>> tensors_;
};

// The description of a matrix, of which rows and columns are given.
edgecomp_matrix described(Bytes &bytes, int32_t rows, int32_t columns) {
  edgecomp_matrix w = {};
  w.rows = rows, w.columns = columns;
  w.axis = bytes.next() % 4 == 0, w.tile = bytes.from({8, 16, 32, 64, 128});
  w.stages = bytes.between(1, 2), w.segment = bytes.between(1, 9);
  w.codewords = bytes.from({2, 3, 5, 8, 11, 16, 16, 40, 256});
  w.groups = bytes.next() % 2 ? 1 : edgecomp_blocks(&w);
  w.table_bits = bytes.from({EDGECOMP_DOT, 8, 16, 32}), w.table_group = bytes.from({16, 32, 64});
  w.codebook_is_half = bytes.next() % 2;
  return w;
}

void add_codes(Arguments &arguments, const edgecomp_matrix &w) {
  arguments.tensor(ScalarType::Byte, {int64_t(edgecomp_codes_bytes(&w))});
  arguments.tensor(w.codebook_is_half ? ScalarType::Half : ScalarType::Float, {w.stages, w.groups, w.segment, w.codewords});
}

int call_recurrence(Bytes &bytes) {
  const int32_t kind = bytes.between(0, 3), hidden = bytes.between(1, 40), batch = bytes.between(1, 5);
  const int32_t steps = bytes.between(1, 4), rows = edgecomp_recurrence_gates(kind) * hidden, count = bytes.between(1, 2);
  std::vector<int64_t> settings = {kind, bytes.next() % 2, count};
  Arguments arguments(bytes);
  arguments.tensor(ScalarType::Float, {steps, batch, rows}), arguments.tensor(ScalarType::Float, {batch, hidden});
  kind == EDGECOMP_LSTM ? arguments.tensor(ScalarType::Float, {batch, hidden}) : arguments.none();
  size_t constants = 0;
  for (int32_t i = 0, columns = hidden; i < count; ++i) {
    const int32_t bits = bytes.from({0, 0, 2, 4, 8, 32}), bias = bytes.next() % 2;
    const int32_t scale = bits == 32 ? 0 : bits ? 1 : bytes.next() % 2;
    const edgecomp_matrix w = described(bytes, i + 1 < count ? bytes.between(1, 40) : rows, columns);
    columns = w.rows;
    if (bits == 0) add_codes(arguments, w);
    else if (bits == 32) arguments.tensor(ScalarType::Float, {w.rows, w.columns});
    else arguments.tensor(ScalarType::Byte, {(int64_t(w.rows) * w.columns * bits + 7) / 8});
    for (int32_t vectors = scale + bias; vectors > 0; --vectors) arguments.tensor(ScalarType::Float, {w.rows});
    constants += size_t(bits ? 1 : 2) + size_t(scale + bias);
    settings.insert(settings.end(), {bits, w.rows, w.columns, w.axis, w.tile, w.stages, w.groups, w.segment, w.codewords,
                                     w.codebook_is_half, w.table_bits, w.table_group, scale, bias});
  }
  arguments.as_list(constants);
  arguments.integers(settings);
  arguments.tensor(ScalarType::Float, {steps * batch * hidden + (kind == EDGECOMP_LSTM ? batch * hidden : 0)});
  return arguments.call("edgecomp::recurrence.out");
}

int call_embedding(Bytes &bytes) {
  const int32_t count = bytes.between(1, 9);
  const edgecomp_matrix w = described(bytes, bytes.between(1, 140), bytes.between(1, 70));
  Arguments arguments(bytes);
  arguments.tensor(ScalarType::Long, {count});
  if (!arguments.good) return 0;
  for (int64_t i = 0; bytes.next() % 8 && 8 * size_t(i + 1) <= arguments.first().second; ++i) {
    const int64_t row = bytes.mostly(bytes.next() % w.rows);
    std::memcpy(arguments.first().first + 8 * i, &row, 8);
  }
  add_codes(arguments, w);
  bytes.next() % 2 ? arguments.tensor(ScalarType::Float, {w.rows}) : arguments.none();
  for (int64_t number : {w.rows, w.columns, w.axis, w.tile}) arguments.integer(number);
  arguments.tensor(ScalarType::Float, {count, w.columns});
  return arguments.call("edgecomp::codebook_embedding.out");
}

// A dense layer or a convolution.
int call_layer(Bytes &bytes, bool conv) {
  const int32_t kernel = conv ? bytes.between(1, 3) : 1, channels = bytes.between(1, 70), size = bytes.between(1, 9);
  const edgecomp_matrix w = described(bytes, bytes.between(1, 140), kernel * kernel * channels);
  const int32_t stride = bytes.between(1, 2), padding = bytes.between(0, 2), dilation = bytes.between(1, 2);
  const edgecomp_conv2d c = {1, channels, size, size, {kernel, kernel}, {stride, stride}, {padding, padding},
                             {dilation, dilation}, 0};
  Arguments arguments(bytes);
  if (conv) arguments.tensor(ScalarType::Float, {1, channels, size, size});
  else arguments.tensor(ScalarType::Float, {size, w.columns});
  add_codes(arguments, w);
  for (int i = 0; i < 2; ++i) bytes.next() % 2 ? arguments.tensor(ScalarType::Float, {w.rows}) : arguments.none();
  for (int64_t number : {w.rows, w.axis, w.tile, w.table_bits, w.table_group}) arguments.integer(number);
  arguments.boolean(bytes.next() % 2);
  if (conv)
    for (int64_t side : {kernel, stride, padding, dilation}) arguments.integers({side, side});
  if (conv) arguments.tensor(ScalarType::Float, {1, w.rows, edgecomp_conv2d_output(&c, 0), edgecomp_conv2d_output(&c, 1)});
  else arguments.tensor(ScalarType::Float, {size, w.rows});
  return arguments.call(conv ? "edgecomp::codebook_conv2d.out" : "edgecomp::codebook_linear.out");
}

// One call with what the bytes say; mostly one that fits together. 1: it was accepted.
int call(Bytes bytes) {
  switch (bytes.between(0, 3)) {
    case 0: return call_recurrence(bytes);
    case 1: return call_embedding(bytes);
    default: return call_layer(bytes, bytes.next() % 2);
  }
}

}  // namespace

// fuzz_ops [CALLS [SEED]]
int main(int count, char **arguments) { return edgecomp_test::run_random(count, arguments, call); }
