#include "custom_ops.h"

#include "op.h"

using edgecomp::Op;
using edgecomp::OpTensor;

namespace {

thread_local std::string first_error, taken_error;

std::vector<int32_t> shape_of(const LiteRtLayout &layout) {
  return {layout.dimensions, layout.dimensions + layout.rank};
}

LiteRtStatus fail(const std::string &message) {
  if (first_error.empty()) first_error = message;
  return 1;
}

// A tensor buffer as the ops want it, locked as long as this lives.
class Locked {
 public:
  Locked(LiteRtTensorBuffer buffer, int mode) : buffer_(buffer) {
    LiteRtRankedTensorType type;
    locked_ = LiteRtGetTensorBufferTensorType(buffer, &type) == 0 && LiteRtLockTensorBuffer(buffer, &tensor_.data, mode) == 0;
    if (locked_) tensor_.type = edgecomp::ElementType(type.element_type), tensor_.shape = shape_of(type.layout);
  }
  Locked(Locked &&other) : buffer_(other.buffer_), locked_(other.locked_), tensor_(std::move(other.tensor_)) {
    other.locked_ = false;
  }
  ~Locked() {
    if (locked_) LiteRtUnlockTensorBuffer(buffer_);
  }
  const OpTensor *get() const { return locked_ ? &tensor_ : nullptr; }

 private:
  LiteRtTensorBuffer buffer_;
  bool locked_;
  OpTensor tensor_;
};

LiteRtStatus ignore_options(void *, const void *, size_t) { return 0; }
LiteRtStatus nothing_to_free(void *) { return 0; }

// The user data of a kernel is its op.
LiteRtStatus get_output_layouts(void *data, size_t inputs, const LiteRtLayout *in, size_t outputs, LiteRtLayout *out) {
  std::vector<std::vector<int32_t>> shapes;
  for (size_t i = 0; i < inputs; ++i) shapes.push_back(shape_of(in[i]));
  const Op op = *static_cast<const Op *>(data);
  const std::vector<int32_t> shape = edgecomp::output_shape(op, shapes);
  if (outputs != 1 || shape.empty() || shape.size() > 8) return fail(std::string(edgecomp::kOpNames[int(op)]) + ": unexpected inputs");
  *out = {};
  out->rank = unsigned(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) out->dimensions[i] = shape[i];
  return 0;
}

LiteRtStatus run(void *data, size_t inputs, const LiteRtTensorBuffer *in, size_t outputs, LiteRtTensorBuffer *out) {
  std::vector<Locked> locks;
  std::vector<OpTensor> tensors;
  for (size_t i = 0; i < inputs; ++i) {
    locks.emplace_back(in[i], kLiteRtLockRead);
    if (!locks.back().get()) return fail("an input of a custom op cannot be read");
    tensors.push_back(*locks.back().get());
  }
  if (outputs != 1) return fail("a custom op has one output");
  const Locked output(out[0], kLiteRtLockWrite);
  if (!output.get()) return fail("the output of a custom op cannot be written");
  const std::string error = edgecomp::run_op(*static_cast<const Op *>(data), tensors, *output.get());
  return error.empty() ? 0 : fail(error);
}

}  // namespace

LiteRtStatus edgecomp_add_litert_ops(LiteRtOptions options) {
  static const LiteRtCustomOpKernel kernel = {ignore_options, get_output_layouts, run, nothing_to_free};
  static Op ops[edgecomp::kOps] = {Op::kLinear, Op::kConv2d, Op::kEmbedding, Op::kRecurrence};
  for (Op &op : ops)
    if (LiteRtStatus status = LiteRtAddCustomOpKernelOption(options, edgecomp::kOpNames[int(op)], 1, &kernel, &op)) return status;
  return 0;
}

const char *edgecomp_take_litert_error(void) {
  taken_error.swap(first_error);
  first_error.clear();
  return taken_error.c_str();
}
