#include "op.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "../kernels/codebook_conv2d/codebook_conv2d.h"
#include "../kernels/codebook_embedding/codebook_embedding.h"
#include "../kernels/codebook_linear/codebook_linear.h"
#include "../kernels/recurrence/recurrence.h"

namespace edgecomp {
namespace {

constexpr size_t kMatrixSettings = 8, kConv2dSettings = 16;

// Memory aligned to 64 bytes, kept by the thread from one inference to the next.
void *scratch_memory(size_t bytes) {
  thread_local std::unique_ptr<void, decltype(&std::free)> memory(nullptr, std::free);
  thread_local size_t size = 0;
  if (bytes > size || !memory) {
    bytes = bytes ? bytes : 1;
    memory.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    size = memory ? bytes : 0;
  }
  return memory.get();
}

struct Arguments {
  edgecomp_matrix w;
  const int32_t *settings;
  size_t settings_count;
};

// Reads what follows x into the description of a matrix with `columns` columns. False if it does not fit together.
bool read_matrix(const std::vector<OpTensor> &inputs, int64_t columns, Arguments *out) {
  const auto is_settings = [](const OpTensor &t) { return t.type == ElementType::kInt32 && t.shape.size() == 1; };
  const auto found = std::find_if(inputs.begin() + std::min<size_t>(3, inputs.size()), inputs.end(), is_settings);
  if (found == inputs.end() || found->elements() < int64_t(kMatrixSettings)) return false;
  out->settings = static_cast<const int32_t *>(found->data);
  out->settings_count = size_t(found->elements());
  const int32_t *s = out->settings;
  const OpTensor &codes = inputs[1], &codebook = inputs[2];
  const bool half = codebook.type == ElementType::kFloat16;
  if (codes.type != ElementType::kInt8 && codes.type != ElementType::kUInt8) return false;
  if ((!half && codebook.type != ElementType::kFloat32) || codebook.shape.size() != 4) return false;
  if (columns <= 0 || columns > INT32_MAX || found - inputs.begin() != 3 + (s[3] != 0) + (s[4] != 0)) return false;
  const std::vector<int32_t> &words = codebook.shape;
  out->w = {s[0], int32_t(columns), s[1], s[2], words[0], words[1], words[2], words[3],
            static_cast<const uint8_t *>(codes.data), codebook.data, half, nullptr, nullptr, s[5], s[6], s[7]};
  if (!edgecomp_matrix_is_valid(&out->w) || size_t(codes.elements()) != edgecomp_codes_bytes(&out->w)) return false;
  const float **vectors[] = {&out->w.scale, &out->w.bias};
  for (int i = 0, next = 3; i < 2; ++i) {
    if (!s[3 + i]) continue;
    const OpTensor &vector = inputs[next++];
    if (vector.type != ElementType::kFloat32 || vector.elements() != out->w.rows) return false;
    *vectors[i] = static_cast<const float *>(vector.data);
  }
  return true;
}

bool is_float(const OpTensor &t) { return t.type == ElementType::kFloat32; }

bool linear(const std::vector<OpTensor> &inputs, const OpTensor &y) {
  const OpTensor &x = inputs[0];
  Arguments a;
  if (!is_float(x) || x.shape.empty() || !is_float(y) || !read_matrix(inputs, x.shape.back(), &a)) return false;
  const int64_t batch = x.elements() / a.w.columns;
  if (batch < 0 || y.elements() < 0 || y.elements() != edgecomp_product(batch, a.w.rows)) return false;
  void *scratch = scratch_memory(edgecomp_linear_scratch_bytes(&a.w, batch));
  if (!scratch) return false;
  edgecomp_linear_run(&a.w, static_cast<const float *>(x.data), batch, static_cast<float *>(y.data), scratch, nullptr);
  return true;
}

#ifndef EDGECOMP_WITHOUT_CONV2D
bool conv2d(const std::vector<OpTensor> &inputs, const OpTensor &y) {
  const OpTensor &x = inputs[0];
  if (!is_float(x) || x.shape.size() != 4 || !is_float(y)) return false;
  if (inputs.size() < 7) return false;
  const size_t last = inputs.size() - 3;  // settings, height, width
  if (inputs[last].elements() < int64_t(kConv2dSettings)) return false;
  const int32_t *g = static_cast<const int32_t *>(inputs[last].data) + kMatrixSettings;
  for (int i = 0; i < 8; ++i)
    if (g[i] < 0 || g[i] > 1 << 20) return false;
  const edgecomp_conv2d c = {x.shape[0],   x.shape[3],   x.shape[1],   x.shape[2],   {g[0], g[1]},
                             {g[2], g[3]}, {g[4], g[5]}, {g[6], g[7]}, 1};
  Arguments a;
  if (!read_matrix(inputs, edgecomp_conv2d_columns(&c), &a) || a.settings_count < kConv2dSettings) return false;
  if (!edgecomp_conv2d_is_valid(&c, &a.w)) return false;
  const int64_t pixels = edgecomp_product(edgecomp_conv2d_output(&c, 0), edgecomp_conv2d_output(&c, 1));
  const int64_t outputs = edgecomp_product(edgecomp_product(c.batch, pixels), a.w.rows);
  if (outputs < 0 || y.elements() != outputs || x.elements() < 0) return false;
  void *scratch = scratch_memory(edgecomp_conv2d_scratch_bytes(&c, &a.w));
  if (!scratch) return false;
  edgecomp_conv2d_run(&c, &a.w, static_cast<const float *>(x.data), static_cast<float *>(y.data), scratch, nullptr);
  return true;
}

#endif

#ifndef EDGECOMP_WITHOUT_EMBEDDING
bool embedding(const std::vector<OpTensor> &inputs, const OpTensor &y) {
  const OpTensor &index = inputs[0];
  Arguments a;
  if (!is_float(y) || y.shape.empty() || !read_matrix(inputs, y.shape.back(), &a)) return false;
  const int64_t count = index.elements();
  if (count < 0 || y.elements() < 0 || y.elements() != edgecomp_product(count, a.w.columns)) return false;
  std::vector<int64_t> rows(count);
  if (index.type == ElementType::kInt64)
    std::copy_n(static_cast<const int64_t *>(index.data), count, rows.begin());
  else if (index.type == ElementType::kInt32)
    std::copy_n(static_cast<const int32_t *>(index.data), count, rows.begin());
  else
    return false;
  return edgecomp_embedding_run(&a.w, rows.data(), count, static_cast<float *>(y.data));
}

#endif

#ifndef EDGECOMP_WITHOUT_RECURRENCE
int32_t bytes_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
    case ElementType::kInt32: return 4;
    case ElementType::kInt64: return 8;
    case ElementType::kFloat16: return 2;
    default: return 1;
  }
}

bool recurrence(const std::vector<OpTensor> &inputs, const OpTensor &y) {
  const OpTensor &xp = inputs[0], &h0 = inputs[1], &settings = inputs.back();
  if (!is_float(xp) || xp.shape.size() != 3 || !is_float(h0) || h0.shape.size() != 2 || !is_float(y)) return false;
  if (settings.type != ElementType::kInt32 || settings.elements() < 3) return false;
  const int32_t *numbers = static_cast<const int32_t *>(settings.data);
  const bool lstm = numbers[0] == EDGECOMP_LSTM;
  const size_t states = lstm ? 3 : 2;
  if (inputs.size() < states + 2 || (lstm && (!is_float(inputs[2]) || inputs[2].shape != h0.shape))) return false;
  std::vector<edgecomp_constant> constants;
  for (size_t i = states; i + 1 < inputs.size(); ++i)
    constants.push_back({inputs[i].data, inputs[i].elements(), bytes_of(inputs[i].type)});
  const int32_t shape[] = {xp.shape[0], xp.shape[1], xp.shape[2], h0.shape[1]};
  edgecomp_recurrence r;
  if (!edgecomp_recurrence_read(numbers, size_t(settings.elements()), constants.data(), constants.size(), shape, &r) ||
      h0.shape[0] != r.batch || y.elements() != edgecomp_recurrence_outputs(&r))
    return false;
  void *scratch = scratch_memory(edgecomp_recurrence_scratch_bytes(&r));
  if (!scratch) return false;
  edgecomp_recurrence_run(&r, static_cast<const float *>(xp.data), static_cast<const float *>(h0.data),
                          lstm ? static_cast<const float *>(inputs[2].data) : nullptr, static_cast<float *>(y.data),
                          scratch, nullptr);
  return true;
}

// The kind is told by how many times as wide as the states xp is; an LSTM gives its last cells, too.
std::vector<int32_t> recurrence_shape(const std::vector<int32_t> &xp, const std::vector<int32_t> &h0) {
  if (xp.size() != 3 || h0.size() != 2) return {};
  const bool lstm = xp[2] == int64_t(h0[1]) * edgecomp_recurrence_gates(EDGECOMP_LSTM);
  if (lstm && xp[0] == INT32_MAX) return {};
  return {xp[0] + lstm, h0[0], h0[1]};
}
#endif

}  // namespace

int64_t OpTensor::elements() const {
  int64_t count = 1;
  for (int32_t size : shape) count = edgecomp_product(count, size);
  return count;
}

std::vector<int32_t> output_shape(Op op, const std::vector<std::vector<int32_t>> &inputs) {
#ifndef EDGECOMP_WITHOUT_RECURRENCE
  if (op == Op::kRecurrence)
    return inputs.size() < 4 ? std::vector<int32_t>{} : recurrence_shape(inputs[0], inputs[1]);
#endif
  const size_t least = op == Op::kConv2d ? 7 : 5;
  if (inputs.size() < least || inputs[0].empty() || inputs[3].size() != 1 || inputs.back().size() != 1) return {};
  std::vector<int32_t> shape = inputs[0];
  if (op == Op::kEmbedding) {
    shape.push_back(inputs.back()[0]);
    return shape;
  }
  shape.back() = inputs[3][0];
  if (op == Op::kConv2d) {
    const std::vector<int32_t> &height = inputs[inputs.size() - 2];
    if (shape.size() != 4 || height.size() != 1) return {};
    shape[1] = height[0], shape[2] = inputs.back()[0];
  }
  return shape;
}

namespace {

// What the models of an app do not use it can leave out: -DEDGECOMP_WITHOUT_CONV2D and the like.
bool run(Op op, const std::vector<OpTensor> &inputs, const OpTensor &output) {
  if (inputs.size() < (op == Op::kRecurrence ? 4 : 5)) return false;
  switch (op) {
    case Op::kLinear: return linear(inputs, output);
#ifndef EDGECOMP_WITHOUT_CONV2D
    case Op::kConv2d: return conv2d(inputs, output);
#endif
#ifndef EDGECOMP_WITHOUT_EMBEDDING
    case Op::kEmbedding: return embedding(inputs, output);
#endif
#ifndef EDGECOMP_WITHOUT_RECURRENCE
    case Op::kRecurrence: return recurrence(inputs, output);
#endif
    default: return false;
  }
}

}  // namespace

std::string run_op(Op op, const std::vector<OpTensor> &inputs, const OpTensor &output) {
  const bool done = run(op, inputs, output);
  return done ? "" : std::string(kOpNames[int(op)]) + ": the arguments do not fit together";
}

}  // namespace edgecomp
