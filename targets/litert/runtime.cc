// Loads and runs a .tflite: the LiteRT side of targets/runtime.h.
#include <cstdlib>
#include <cstring>

#include "../runtime.h"
#include "custom_ops.h"
#include "op.h"

namespace {

std::string describe(const char *what, LiteRtStatus status) {
  return std::string(what) + " failed with LiteRT status " + std::to_string(status);
}

// By the names of numpy.
const char *dtype_of(int32_t type) {
  switch (edgecomp::ElementType(type)) {
    case edgecomp::ElementType::kFloat32: return "float32";
    case edgecomp::ElementType::kInt32: return "int32";
    case edgecomp::ElementType::kUInt8: return "uint8";
    case edgecomp::ElementType::kInt64: return "int64";
    case edgecomp::ElementType::kBool: return "bool";
    case edgecomp::ElementType::kInt16: return "int16";
    case edgecomp::ElementType::kInt8: return "int8";
    case edgecomp::ElementType::kFloat16: return "float16";
    case edgecomp::ElementType::kFloat64: return "float64";
    default: return "unknown";
  }
}

// A buffer of the model's, locked except while the model runs.
struct Buffer {
  LiteRtTensorBuffer handle;
  int mode;
  TensorInfo info;
  void *data = nullptr;
  size_t size = 0;
};

class LiteRt : public Runtime {
 public:
  ~LiteRt() override {
    for (auto *buffers : {&inputs_, &outputs_})
      for (Buffer &buffer : *buffers) {
        if (buffer.data) LiteRtUnlockTensorBuffer(buffer.handle);
        LiteRtDestroyTensorBuffer(buffer.handle);
      }
    if (compiled_) LiteRtDestroyCompiledModel(compiled_);
    if (options_) LiteRtDestroyOptions(options_);
    if (model_) LiteRtDestroyModel(model_);
    if (environment_) LiteRtDestroyEnvironment(environment_);
  }

  bool verifies_files() const override { return false; }

  std::string load(const std::string &path, int threads, Profile profile) override {
    const LiteRtEnvOption cpu = {kLiteRtEnvOptionAutoRegisterAccelerators, kLiteRtAnyTypeInt, kLiteRtHwAcceleratorCpu};
    if (auto status = LiteRtCreateEnvironment(1, &cpu, &environment_)) return describe("creating the environment", status);
    if (auto status = LiteRtCreateModelFromFile(environment_, path.c_str(), &model_))
      return describe("reading the file", status);
    if (auto status = make_options(threads, profile, &options_)) return describe("setting the options", status);
    if (auto status = LiteRtCreateCompiledModel(environment_, model_, options_, &compiled_))
      return with_op_error(describe("preparing the model", status));
    if (profile != Profile::kNone && LiteRtCompiledModelGetProfiler(compiled_, &profiler_))
      return "the runtime has no profiler";
    if (const std::string error = make_buffers(); !error.empty()) return error;
    return with_op_error("");
  }

  std::vector<TensorInfo> input_info() override { return info(inputs_); }
  std::vector<TensorInfo> output_info() override { return info(outputs_); }

  std::vector<std::pair<void *, size_t>> inputs() override {
    std::vector<std::pair<void *, size_t>> spans;
    for (const Buffer &buffer : inputs_) spans.emplace_back(buffer.data, buffer.size);
    return spans;
  }

  std::string run() override {
    for (auto *buffers : {&inputs_, &outputs_})
      for (Buffer &buffer : *buffers) LiteRtUnlockTensorBuffer(buffer.handle);
    if (profiler_) LiteRtResetProfiler(profiler_), LiteRtStartProfiler(profiler_);
    const LiteRtStatus status =
        LiteRtRunCompiledModel(compiled_, 0, input_handles_.size(), input_handles_.data(), output_handles_.size(),
                               output_handles_.data());
    for (auto *buffers : {&inputs_, &outputs_})
      for (Buffer &buffer : *buffers)
        if (auto locked = lock(buffer)) return describe("reading the outputs", locked);
    return with_op_error(status ? describe("running the model", status) : "");
  }

  // Operators of a delegate have no start: XNNPACK reads the clock once, and then after each of them.
  std::vector<Event> events() override {
    int count = 0;
    if (!profiler_ || LiteRtGetNumProfilerEvents(profiler_, &count) || count <= 0) return {};
    std::vector<LiteRtEvent> noted(count);
    if (LiteRtGetProfilerEvents(profiler_, count, noted.data())) return {};
    std::vector<Event> found;
    uint64_t at = 0;
    bool in_delegate = false;
    for (const LiteRtEvent &event : noted) {
      const bool delegated = event.type == kLiteRtEventDelegateOperator;
      if (delegated) at += in_delegate ? 0 : 1;
      else if (event.type == kLiteRtEventOperator) at = event.start_us;
      else if (std::strcmp(event.tag, "Invoke") == 0 && event.type == kLiteRtEventDefault) at = event.start_us;
      in_delegate = delegated;
      if (!delegated && event.type != kLiteRtEventOperator) continue;
      found.push_back({event.tag, 1000 * at, 1000 * (at + event.elapsed_us)});
      at += event.elapsed_us;
    }
    return found;
  }

  std::vector<std::pair<const void *, size_t>> outputs() override {
    std::vector<std::pair<const void *, size_t>> spans;
    for (const Buffer &buffer : outputs_) spans.emplace_back(buffer.data, buffer.size);
    return spans;
  }

 private:
  // LiteRT goes on after a custom op has failed; the op has noted why.
  static std::string with_op_error(const std::string &error) {
    const std::string op = edgecomp_take_litert_error();
    return op.empty() ? error : error.empty() ? op : error + ": " + op;
  }

  static LiteRtStatus make_options(int threads, Profile profile, LiteRtOptions *options) {
    const std::string text = "num_threads = " + std::to_string(threads) + "\n";
    LiteRtOpaqueOptions cpu;
    LiteRtStatus status = LiteRtCreateOptions(options);
    if (!status) status = LiteRtSetOptionsHardwareAccelerators(*options, kLiteRtHwAcceleratorCpu);
    if (!status) status = LiteRtCreateOpaqueOptions("xnnpack", strdup(text.c_str()), std::free, &cpu);
    if (!status) status = LiteRtAddOpaqueOptions(*options, cpu);
    LiteRtOpaqueOptions runtime;
    if (!status && profile != Profile::kNone) {
      char *const enabled = strdup("enable_profiling = true\n");
      status = LiteRtCreateOpaqueOptions("runtime_options_string", enabled, std::free, &runtime);
      if (!status) status = LiteRtAddOpaqueOptions(*options, runtime);
    }
    return status ? status : edgecomp_add_litert_ops(*options);
  }

  static std::vector<TensorInfo> info(const std::vector<Buffer> &buffers) {
    std::vector<TensorInfo> infos;
    for (const Buffer &buffer : buffers) infos.push_back(buffer.info);
    return infos;
  }

  // One sample where the file leaves the batch open, as the interpreter runs it unless asked to resize.
  static void fix_shape(LiteRtLayout *layout) {
    for (unsigned i = 0; i < layout->rank; ++i)
      if (layout->dimensions[i] < 0) layout->dimensions[i] = 1;
  }

  static LiteRtStatus lock(Buffer &buffer) { return LiteRtLockTensorBuffer(buffer.handle, &buffer.data, buffer.mode); }

  std::string make_buffers() {
    LiteRtSignature signature;
    size_t inputs, outputs;
    if (auto status = LiteRtGetModelSignature(model_, 0, &signature)) return describe("reading the signature", status);
    if (auto status = LiteRtGetNumSignatureInputs(signature, &inputs)) return describe("counting inputs", status);
    if (auto status = LiteRtGetNumSignatureOutputs(signature, &outputs)) return describe("counting outputs", status);
    for (size_t i = 0; i < inputs + outputs; ++i) {
      const bool input = i < inputs;
      const size_t index = input ? i : i - inputs;
      LiteRtTensor tensor;
      LiteRtRankedTensorType type;
      LiteRtTensorBufferRequirements needs;
      LiteRtStatus status = input ? LiteRtGetSignatureInputTensorByIndex(signature, index, &tensor)
                                  : LiteRtGetSignatureOutputTensorByIndex(signature, index, &tensor);
      if (!status) status = LiteRtGetRankedTensorType(tensor, &type);
      if (!status) fix_shape(&type.layout);
      if (!status)
        status = input ? LiteRtGetCompiledModelInputBufferRequirements(compiled_, 0, index, &needs)
                       : LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, index, &needs);
      const char *name;
      if (!status)
        status = input ? LiteRtGetSignatureInputName(signature, index, &name)
                       : LiteRtGetSignatureOutputName(signature, index, &name);
      if (status) return describe("reading the signature", status);
      const int32_t *sizes = type.layout.dimensions;
      Buffer buffer = {nullptr, input ? kLiteRtLockWrite : kLiteRtLockRead,
                       {name, dtype_of(type.element_type), {sizes, sizes + type.layout.rank}}};
      if (!status) status = LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &buffer.handle);
      if (!status) status = LiteRtGetTensorBufferPackedSize(buffer.handle, &buffer.size);
      if (!status) status = lock(buffer);
      if (buffer.handle) (input ? inputs_ : outputs_).push_back(buffer);  // which are destroyed in any case
      if (status) return describe("making the buffers", status);
      (input ? input_handles_ : output_handles_).push_back(buffer.handle);
    }
    return "";
  }

  LiteRtEnvironment environment_ = nullptr;
  LiteRtModel model_ = nullptr;
  LiteRtOptions options_ = nullptr;
  LiteRtCompiledModel compiled_ = nullptr;
  LiteRtProfiler profiler_ = nullptr;
  std::vector<Buffer> inputs_, outputs_;
  std::vector<LiteRtTensorBuffer> input_handles_, output_handles_;
};

}  // namespace

std::unique_ptr<Runtime> make_runtime() { return std::make_unique<LiteRt>(); }
