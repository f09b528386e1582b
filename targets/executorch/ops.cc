// The ops `edgecomp::codebook_linear.out`, `…conv2d.out`, `…embedding.out` and `edgecomp::recurrence.out`: checks the
// arguments, calls the kernels. Linking this file into a program registers them. A wrong argument is an error of the op,
// never a crash.
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include "../kernels/codebook_conv2d/codebook_conv2d.h"
#include "../kernels/codebook_embedding/codebook_embedding.h"
#include "../kernels/codebook_linear/codebook_linear.h"
#include "../kernels/recurrence/recurrence.h"
#include "checked.h"

namespace {

using executorch::aten::ArrayRef;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;
using std::optional;

bool is_contiguous(const Tensor &t, ScalarType type) {
  if (t.scalar_type() != type || (t.numel() > 0 && !t.const_data_ptr())) return false;
  const auto order = t.dim_order();
  for (size_t i = 0; i < order.size(); ++i)
    if (order[i] != i) return false;
  return true;
}

bool read_vector(const optional<Tensor> &t, int64_t rows, const float **out) {
  *out = nullptr;
  if (!t.has_value()) return true;
  if (!is_contiguous(*t, ScalarType::Float) || t->numel() != rows) return false;
  *out = t->const_data_ptr<float>();
  return true;
}

bool fits(int64_t value) { return value > 0 && value <= INT32_MAX; }

struct Lookup {
  int64_t bits, group;
  bool relu;
};

// Fills `w` from the op's arguments; false if they do not describe a matrix with `columns` columns.
bool read_matrix(const Tensor &codes, const Tensor &codebook, const optional<Tensor> &scale,
                 const optional<Tensor> &bias, int64_t rows, int64_t columns, int64_t axis, int64_t tile,
                 const Lookup &lookup, edgecomp_matrix *w) {
  const bool half = codebook.scalar_type() == ScalarType::Half;
  if (!fits(rows) || !fits(columns) || axis < 0 || axis > 1 || tile < 8 || tile > 128) return false;
  if ((lookup.bits != EDGECOMP_DOT && !fits(lookup.bits)) || !fits(lookup.group)) return false;
  if (!is_contiguous(codes, ScalarType::Byte) || codebook.dim() != 4) return false;
  if (!is_contiguous(codebook, half ? ScalarType::Half : ScalarType::Float)) return false;
  for (int i = 0; i < 4; ++i)
    if (!fits(codebook.size(i))) return false;
  *w = {int32_t(rows), int32_t(columns), int32_t(axis), int32_t(tile), int32_t(codebook.size(0)),
        int32_t(codebook.size(1)), int32_t(codebook.size(2)), int32_t(codebook.size(3)),
        codes.const_data_ptr<uint8_t>(), codebook.const_data_ptr(), half, nullptr, nullptr,
        int32_t(lookup.bits), int32_t(lookup.group), lookup.relu};
  return edgecomp_matrix_is_valid(w) && size_t(codes.numel()) == edgecomp_codes_bytes(w) &&
         read_vector(scale, rows, &w->scale) && read_vector(bias, rows, &w->bias);
}

// The threads of the runtime's pool: with ET_USE_THREADPOOL, else one.
edgecomp_threads pool() {
  const auto run = [](void *, void (*task)(void *, size_t), void *context, size_t count) {
    executorch::extension::parallel_for(0, int64_t(count), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(context, size_t(i));
    });
  };
  return {nullptr, int32_t(executorch::extension::get_thread_count()), run};
}

// Scratch memory; nullptr, with the context told, if there is none.
void *scratch_memory(KernelRuntimeContext &context, size_t bytes) {
  auto memory = context.allocate_temp(bytes ? bytes : 1, 64);
  if (memory.ok()) return *memory;
  context.fail(memory.error());
  return nullptr;
}

// Tells a profiler, if there is one, how long a kernel takes.
class Profiled {
 public:
  Profiled(KernelRuntimeContext &context, const char *name) : tracer_(context.internal_event_tracer()) {
    if (tracer_) entry_ = tracer_->start_profiling(name);
  }
  ~Profiled() {
    if (tracer_) tracer_->end_profiling(entry_);
  }

 private:
  executorch::runtime::EventTracer *tracer_;
  executorch::runtime::EventTracerEntry entry_;
};

Tensor &codebook_linear(KernelRuntimeContext &context, const Tensor &x, const Tensor &codes, const Tensor &codebook,
                        optional<Tensor> scale, optional<Tensor> bias, int64_t rows, int64_t axis, int64_t tile,
                        int64_t table_bits, int64_t table_group, bool relu, Tensor &out) {
  const Profiled profiled(context, "codebook_linear");
  edgecomp_matrix w;
  const Lookup lookup = {table_bits, table_group, relu};
  const bool valid = x.dim() > 0 && is_contiguous(x, ScalarType::Float) && is_contiguous(out, ScalarType::Float) &&
                     read_matrix(codes, codebook, scale, bias, rows, x.size(x.dim() - 1), axis, tile, lookup, &w) &&
                     out.numel() == edgecomp_product(x.numel() / w.columns, w.rows);
  if (!valid) {
    ET_LOG(Error, "edgecomp::codebook_linear: the arguments do not fit together");
    context.fail(Error::InvalidArgument);
    return out;
  }
  const int64_t batch = x.numel() / w.columns;
  void *scratch = scratch_memory(context, edgecomp_linear_scratch_bytes(&w, batch));
  const edgecomp_threads threads = pool();
  if (scratch) edgecomp_linear_run(&w, x.const_data_ptr<float>(), batch, out.mutable_data_ptr<float>(), scratch, &threads);
  return out;
}

#ifndef EDGECOMP_WITHOUT_CONV2D
// Values of a convolution's output; -1 if there are too many.
int64_t outputs(const edgecomp_conv2d &c, const edgecomp_matrix &w) {
  const int64_t pixels = edgecomp_product(edgecomp_conv2d_output(&c, 0), edgecomp_conv2d_output(&c, 1));
  return edgecomp_product(edgecomp_product(c.batch, pixels), w.rows);
}

bool read_pair(ArrayRef<int64_t> values, int32_t *out) {
  if (values.size() != 2) return false;
  for (int i = 0; i < 2; ++i) {
    if (values[i] < 0 || values[i] > 1 << 20) return false;
    out[i] = int32_t(values[i]);
  }
  return true;
}

Tensor &codebook_conv2d(KernelRuntimeContext &context, const Tensor &x, const Tensor &codes, const Tensor &codebook,
                        optional<Tensor> scale, optional<Tensor> bias, int64_t rows, int64_t axis, int64_t tile,
                        int64_t table_bits, int64_t table_group, bool relu, ArrayRef<int64_t> kernel,
                        ArrayRef<int64_t> stride, ArrayRef<int64_t> padding, ArrayRef<int64_t> dilation, Tensor &out) {
  const Profiled profiled(context, "codebook_conv2d");
  edgecomp_matrix w;
  edgecomp_conv2d c = {};
  bool valid = x.dim() == 4 && is_contiguous(x, ScalarType::Float) && is_contiguous(out, ScalarType::Float) &&
               read_pair(kernel, c.kernel) && read_pair(stride, c.stride) && read_pair(padding, c.padding) &&
               read_pair(dilation, c.dilation);
  if (valid) {
    c.batch = x.size(0), c.channels = x.size(1), c.height = x.size(2), c.width = x.size(3);
    valid = read_matrix(codes, codebook, scale, bias, rows, edgecomp_conv2d_columns(&c), axis, tile, {table_bits, table_group, relu}, &w) &&
            edgecomp_conv2d_is_valid(&c, &w) &&
            out.numel() == outputs(c, w);
  }
  if (!valid) {
    ET_LOG(Error, "edgecomp::codebook_conv2d: the arguments do not fit together");
    context.fail(Error::InvalidArgument);
    return out;
  }
  void *scratch = scratch_memory(context, edgecomp_conv2d_scratch_bytes(&c, &w));
  const edgecomp_threads threads = pool();
  if (scratch) edgecomp_conv2d_run(&c, &w, x.const_data_ptr<float>(), out.mutable_data_ptr<float>(), scratch, &threads);
  return out;
}

#endif

#ifndef EDGECOMP_WITHOUT_EMBEDDING
Tensor &codebook_embedding(KernelRuntimeContext &context, const Tensor &index, const Tensor &codes,
                           const Tensor &codebook, optional<Tensor> scale, int64_t rows, int64_t columns, int64_t axis,
                           int64_t tile, Tensor &out) {
  const Profiled profiled(context, "codebook_embedding");
  edgecomp_matrix w;
  const bool valid = is_contiguous(index, ScalarType::Long) && is_contiguous(out, ScalarType::Float) &&
                     read_matrix(codes, codebook, scale, {}, rows, columns, axis, tile, {32, 64, false}, &w) &&
                     out.numel() == edgecomp_product(index.numel(), w.columns);
  if (!valid || !edgecomp_embedding_run(&w, index.const_data_ptr<int64_t>(), index.numel(),
                                        out.mutable_data_ptr<float>())) {
    ET_LOG(Error, "edgecomp::codebook_embedding: the arguments do not fit together, or an index is not a row");
    context.fail(Error::InvalidArgument);
  }
  return out;
}

#endif

#ifndef EDGECOMP_WITHOUT_RECURRENCE
// Fills `r` from the op's arguments; false if they do not fit together.
bool read_recurrence(const Tensor &xp, const Tensor &h0, const optional<Tensor> &c0, ArrayRef<Tensor> constants,
                     ArrayRef<int64_t> settings, const Tensor &out, edgecomp_recurrence *r) {
  int32_t numbers[EDGECOMP_MOST_SETTINGS];
  edgecomp_constant stored[4 * EDGECOMP_FACTORS];
  if (settings.size() > EDGECOMP_MOST_SETTINGS || constants.size() > 4 * EDGECOMP_FACTORS) return false;
  for (size_t i = 0; i < settings.size(); ++i) {
    if (settings[i] < 0 || settings[i] > INT32_MAX) return false;
    numbers[i] = int32_t(settings[i]);
  }
  for (size_t i = 0; i < constants.size(); ++i) {
    const Tensor &t = constants[i];
    if (!is_contiguous(t, t.scalar_type())) return false;
    stored[i] = {t.const_data_ptr(), t.numel(), int32_t(t.element_size())};
  }
  if (xp.dim() != 3 || h0.dim() != 2 || !is_contiguous(xp, ScalarType::Float) || !is_contiguous(h0, ScalarType::Float) ||
      !is_contiguous(out, ScalarType::Float))
    return false;
  const int32_t shape[] = {int32_t(xp.size(0)), int32_t(xp.size(1)), int32_t(xp.size(2)), int32_t(h0.size(1))};
  const float *cells;
  return edgecomp_recurrence_read(numbers, settings.size(), stored, constants.size(), shape, r) &&
         h0.size(0) == r->batch && c0.has_value() == (r->kind == EDGECOMP_LSTM) && read_vector(c0, h0.numel(), &cells) &&
         out.numel() == edgecomp_recurrence_outputs(r);
}

Tensor &recurrence(KernelRuntimeContext &context, const Tensor &xp, const Tensor &h0, optional<Tensor> c0,
                   ArrayRef<Tensor> constants, ArrayRef<int64_t> settings, Tensor &out) {
  const Profiled profiled(context, "recurrence");
  edgecomp_recurrence r;
  if (!read_recurrence(xp, h0, c0, constants, settings, out, &r)) {
    ET_LOG(Error, "edgecomp::recurrence: the arguments do not fit together");
    context.fail(Error::InvalidArgument);
    return out;
  }
  void *scratch = scratch_memory(context, edgecomp_recurrence_scratch_bytes(&r));
  const edgecomp_threads threads = pool();
  if (scratch)
    edgecomp_recurrence_run(&r, xp.const_data_ptr<float>(), h0.const_data_ptr<float>(),
                            c0.has_value() ? c0->const_data_ptr<float>() : nullptr, out.mutable_data_ptr<float>(),
                            scratch, &threads);
  return out;
}

#endif

}  // namespace

// What the models of an app do not use it can leave out: -DEDGECOMP_WITHOUT_CONV2D and the like.
EDGECOMP_OP(codebook_linear);
#ifndef EDGECOMP_WITHOUT_CONV2D
EDGECOMP_OP(codebook_conv2d);
#endif
#ifndef EDGECOMP_WITHOUT_EMBEDDING
EDGECOMP_OP(codebook_embedding);
#endif
#ifndef EDGECOMP_WITHOUT_RECURRENCE
EDGECOMP_OP(recurrence);
#endif
