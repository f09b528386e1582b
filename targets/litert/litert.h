// What is used of LiteRT's C API (libLiteRt.so 2.3), declared: its headers are not in the package. Handles are opaque,
// status 0 means success.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

typedef struct LiteRtEnvironmentT *LiteRtEnvironment;
typedef struct LiteRtModelT *LiteRtModel;
typedef struct LiteRtSignatureT *LiteRtSignature;
typedef struct LiteRtTensorT *LiteRtTensor;
typedef struct LiteRtOptionsT *LiteRtOptions;
typedef struct LiteRtOpaqueOptionsT *LiteRtOpaqueOptions;
typedef struct LiteRtCompiledModelT *LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT *LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT *LiteRtTensorBufferRequirements;
typedef struct LiteRtProfilerT *LiteRtProfiler;
typedef int LiteRtStatus;

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtLayout;
static_assert(sizeof(LiteRtLayout) == 68, "as the library was built");

typedef struct {
  int32_t element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

typedef struct {
  alignas(8) int32_t tag;
  alignas(8) int32_t value_type;
  int64_t value;
} LiteRtEnvOption;
static_assert(sizeof(LiteRtEnvOption) == 24, "as the library was built");

// What the profiler noted; `start_us` of the operators of a delegate is 0.
typedef struct {
  const char *tag;
  int32_t type;
  uint64_t start_us, elapsed_us;
  uint64_t memory[6];
  uint64_t metadata[2];
  int32_t source;
} LiteRtEvent;
static_assert(sizeof(LiteRtEvent) == 104, "as the library was built");

enum {
  kLiteRtEventDefault = 1,
  kLiteRtEventOperator = 2,
  kLiteRtEventDelegateOperator = 8,
};

enum {
  kLiteRtEnvOptionAutoRegisterAccelerators = 24,
  kLiteRtAnyTypeInt = 2,
  kLiteRtHwAcceleratorCpu = 1,
  kLiteRtLockRead = 0,
  kLiteRtLockWrite = 1,
};

typedef struct {
  LiteRtStatus (*init)(void *user_data, const void *data, size_t size);
  LiteRtStatus (*get_output_layouts)(void *user_data, size_t inputs, const LiteRtLayout *input_layouts, size_t outputs,
                                     LiteRtLayout *output_layouts);
  LiteRtStatus (*run)(void *user_data, size_t inputs, const LiteRtTensorBuffer *input_buffers, size_t outputs,
                      LiteRtTensorBuffer *output_buffers);
  LiteRtStatus (*destroy)(void *user_data);
} LiteRtCustomOpKernel;

LiteRtStatus LiteRtCreateEnvironment(int count, const LiteRtEnvOption *options, LiteRtEnvironment *environment);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char *path, LiteRtModel *model);
LiteRtStatus LiteRtGetModelSignature(LiteRtModel model, size_t index, LiteRtSignature *signature);
LiteRtStatus LiteRtGetSignatureInputName(LiteRtSignature signature, size_t index, const char **name);
LiteRtStatus LiteRtGetSignatureOutputName(LiteRtSignature signature, size_t index, const char **name);
LiteRtStatus LiteRtGetNumSignatureInputs(LiteRtSignature signature, size_t *count);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature signature, size_t *count);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature signature, size_t index, LiteRtTensor *tensor);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature signature, size_t index, LiteRtTensor *tensor);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType *type);
LiteRtStatus LiteRtCreateOptions(LiteRtOptions *options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
LiteRtStatus LiteRtCreateOpaqueOptions(const char *identifier, void *payload, void (*destroy)(void *),
                                       LiteRtOpaqueOptions *options);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtOptions options, LiteRtOpaqueOptions opaque);
LiteRtStatus LiteRtAddCustomOpKernelOption(LiteRtOptions options, const char *name, int version,
                                           const LiteRtCustomOpKernel *kernel, void *user_data);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options,
                                       LiteRtCompiledModel *compiled);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel model, size_t signature, size_t index,
                                                           LiteRtTensorBufferRequirements *requirements);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel model, size_t signature, size_t index,
                                                            LiteRtTensorBufferRequirements *requirements);
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment environment,
                                                             const LiteRtRankedTensorType *type,
                                                             LiteRtTensorBufferRequirements requirements,
                                                             LiteRtTensorBuffer *buffer);
LiteRtStatus LiteRtGetTensorBufferTensorType(LiteRtTensorBuffer buffer, LiteRtRankedTensorType *type);
LiteRtStatus LiteRtGetTensorBufferPackedSize(LiteRtTensorBuffer buffer, size_t *size);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void **data, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
LiteRtStatus LiteRtCompiledModelGetProfiler(LiteRtCompiledModel model, LiteRtProfiler *profiler);
LiteRtStatus LiteRtStartProfiler(LiteRtProfiler profiler);
LiteRtStatus LiteRtResetProfiler(LiteRtProfiler profiler);  // stops it as well
LiteRtStatus LiteRtGetNumProfilerEvents(LiteRtProfiler profiler, int *count);
LiteRtStatus LiteRtGetProfilerEvents(LiteRtProfiler profiler, int count, LiteRtEvent *events);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel model, size_t signature, size_t inputs,
                                    LiteRtTensorBuffer *input_buffers, size_t outputs, LiteRtTensorBuffer *output_buffers);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel model);
void LiteRtDestroyOptions(LiteRtOptions options);
void LiteRtDestroyModel(LiteRtModel model);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);
}
