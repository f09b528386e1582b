// The custom ops as an external delegate, for Python's interpreter and for apps on the older TensorFlow Lite API:
//
//   Interpreter(path, experimental_delegates=[load_delegate("libedgecomp_delegate.so")])
//
// Every node of ours is taken over by itself; XNNPACK still gets the others. What is used of the TensorFlow Lite C API
// (common.h, stable since 2.4) is declared here: its headers are not in the package.
#include <cstring>

#include "../op.h"

extern "C" {

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
typedef struct TfLiteContext TfLiteContext;
typedef struct TfLiteDelegate TfLiteDelegate;

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

typedef struct {
  int type;
  void *data;
  TfLiteIntArray *dims;
  float scale;
  int32_t zero_point;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  TfLiteDelegate *delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  int quantization_type;
  void *quantization, *sparsity;
  const TfLiteIntArray *dims_signature;
} TfLiteTensor;
static_assert(sizeof(TfLiteTensor) == 112, "tensors lie side by side in TfLiteContext::tensors");

typedef struct {
  TfLiteIntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data;
  // More follows.
} TfLiteNode;

typedef struct {
  void *(*init)(TfLiteContext *, const char *, size_t);
  void (*free)(TfLiteContext *, void *);
  TfLiteStatus (*prepare)(TfLiteContext *, TfLiteNode *);
  TfLiteStatus (*invoke)(TfLiteContext *, TfLiteNode *);
  const char *(*profiling_string)(const TfLiteContext *, const TfLiteNode *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
} TfLiteRegistration;

struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext *, TfLiteIntArray **);
  TfLiteTensor *tensors;
  void *impl;
  TfLiteStatus (*ResizeTensor)(TfLiteContext *, TfLiteTensor *, TfLiteIntArray *);
  void (*ReportError)(TfLiteContext *, const char *, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext *, int, int *);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext *, int, TfLiteNode **, TfLiteRegistration **);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext *, TfLiteRegistration, const TfLiteIntArray *,
                                                        TfLiteDelegate *);
  int recommended_num_threads;
  void *(*GetExternalContext)(TfLiteContext *, int);
  void (*SetExternalContext)(TfLiteContext *, int, void *);
  int32_t allow_fp32_relax_to_fp16;  // a bool and its padding
  void *profiler;
  void *(*AllocatePersistentBuffer)(TfLiteContext *, size_t);
  TfLiteStatus (*AllocateBufferForEval)(TfLiteContext *, size_t, void **);
  TfLiteStatus (*RequestScratchBufferInArena)(TfLiteContext *, size_t, int *);
  void *(*GetScratchBuffer)(TfLiteContext *, int);
  TfLiteStatus (*ResizeTensorExplicit)(TfLiteContext *, TfLiteTensor *, int, const int *);
  // More follows.
};

// What `init` of a delegate's kernel is given.
typedef struct {
  TfLiteDelegate *delegate;
  TfLiteIntArray *nodes_to_replace, *input_tensors, *output_tensors;
} TfLiteDelegateParams;

struct TfLiteDelegate {
  void *data;
  TfLiteStatus (*Prepare)(TfLiteContext *, TfLiteDelegate *);
  void *copy_from_buffer, *copy_to_buffer, *free_buffer;
  int64_t flags;
  void *opaque_builder;
};
}

namespace {

using edgecomp::Op;
using edgecomp::OpTensor;

constexpr int32_t kBuiltinCustom = 32;
constexpr int64_t kAllowDynamicTensors = 1;

// One node that was taken over. Inputs are those of the node itself, in its order.
struct Node {
  Op op;
  std::vector<int> inputs;
  int output;
};

std::vector<int32_t> shape_of(const TfLiteTensor *tensor) {
  return {tensor->dims->data, tensor->dims->data + tensor->dims->size};
}

OpTensor read(const TfLiteTensor *tensor) {
  return {edgecomp::ElementType(tensor->type), shape_of(tensor), tensor->data};
}

int op_of(const TfLiteRegistration *registration) {
  if (registration->builtin_code != kBuiltinCustom || !registration->custom_name) return -1;
  for (int op = 0; op < edgecomp::kOps; ++op)
    if (std::strcmp(registration->custom_name, edgecomp::kOpNames[op]) == 0) return op;
  return -1;
}

void *init(TfLiteContext *context, const char *buffer, size_t) {
  const auto *params = reinterpret_cast<const TfLiteDelegateParams *>(buffer);
  TfLiteNode *node;
  TfLiteRegistration *registration;
  if (context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration) != kTfLiteOk)
    return nullptr;
  const TfLiteIntArray *inputs = node->inputs;
  return new Node{Op(op_of(registration)), {inputs->data, inputs->data + inputs->size}, node->outputs->data[0]};
}

void free_node(TfLiteContext *, void *node) { delete static_cast<Node *>(node); }

TfLiteStatus prepare(TfLiteContext *context, TfLiteNode *delegated) {
  const Node *node = static_cast<Node *>(delegated->user_data);
  if (!node) return kTfLiteError;
  std::vector<std::vector<int32_t>> shapes;
  for (int input : node->inputs) shapes.push_back(shape_of(context->tensors + input));
  const std::vector<int32_t> shape = edgecomp::output_shape(node->op, shapes);
  if (shape.empty()) {
    context->ReportError(context, "%s: unexpected inputs", edgecomp::kOpNames[int(node->op)]);
    return kTfLiteError;
  }
  TfLiteTensor *output = context->tensors + node->output;
  if (shape_of(output) == shape) return kTfLiteOk;
  return context->ResizeTensorExplicit(context, output, int(shape.size()), shape.data());
}

TfLiteStatus invoke(TfLiteContext *context, TfLiteNode *delegated) {
  const Node *node = static_cast<Node *>(delegated->user_data);
  std::vector<OpTensor> inputs;
  for (int input : node->inputs) inputs.push_back(read(context->tensors + input));
  const std::string error = edgecomp::run_op(node->op, inputs, read(context->tensors + node->output));
  if (error.empty()) return kTfLiteOk;
  context->ReportError(context, "%s", error.c_str());
  return kTfLiteError;
}

TfLiteStatus take_over(TfLiteContext *context, TfLiteDelegate *delegate) {
  TfLiteIntArray *plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  const std::vector<int> nodes(plan->data, plan->data + plan->size);  // the plan changes with every replacement
  TfLiteRegistration kernel = {};
  kernel.init = init, kernel.free = free_node, kernel.prepare = prepare, kernel.invoke = invoke;
  kernel.custom_name = "edgecomp", kernel.version = 1;
  for (int index : nodes) {
    TfLiteNode *node;
    TfLiteRegistration *registration;
    if (context->GetNodeAndRegistration(context, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
    if (op_of(registration) < 0) continue;
    const struct {
      int size, index;
    } one = {1, index};
    const auto *subset = reinterpret_cast<const TfLiteIntArray *>(&one);
    if (context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, subset, delegate) != kTfLiteOk)
      return kTfLiteError;
  }
  return kTfLiteOk;
}

}  // namespace

extern "C" {

TfLiteDelegate *tflite_plugin_create_delegate(const char *const *, const char *const *, size_t, void (*)(const char *)) {
  TfLiteDelegate *delegate = new TfLiteDelegate{};
  delegate->Prepare = take_over;
  delegate->flags = kAllowDynamicTensors;
  return delegate;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate *delegate) { delete delegate; }
}
