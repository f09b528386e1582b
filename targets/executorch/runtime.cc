// Loads and runs a .pte: the ExecuTorch side of targets/runtime.h.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/extension/threadpool/threadpool_guard.h>

#include <mutex>

#include "tracer.h"

// The pool is in the SDK's library, its header is not in the package: what is used of it, declared.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool *get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::Program;

std::string describe(const char *what, Error error) {
  return std::string(what) + " failed with ExecuTorch error " + std::to_string(static_cast<int>(error));
}

const char *dtype_of(executorch::aten::ScalarType type) {
  using executorch::aten::ScalarType;
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "unknown";
  }
}

TensorInfo info_of(const executorch::runtime::TensorInfo &tensor) {
  return {"", dtype_of(tensor.scalar_type()), {tensor.sizes().begin(), tensor.sizes().end()}};
}

// All models of a process share a pool, and those that are loaded hold it: the first one decides.
void set_threads(int threads) {
  static std::once_flag done;
  std::call_once(done, [&] {
    executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(uint32_t(threads));
  });
}

class ExecuTorch : public Runtime {
 public:
  bool verifies_files() const override { return true; }

  std::string load(const std::string &path, int threads, Profile profile) override {
    set_threads(threads);
    auto tracer = profile == Profile::kNone ? nullptr : std::make_unique<Tracer>(&events_, profile);
    module_ = std::make_unique<Module>(path, Module::LoadMode::Mmap, std::move(tracer));
    // Full verification: a damaged file must be an error here, not a crash later.
    if (Error error = module_->load(Program::Verification::InternalConsistency); error != Error::Ok)
      return describe("loading the program", error);
    if (Error error = module_->load_forward(); error != Error::Ok) return describe("loading its method", error);
    auto meta = module_->method_meta("forward");
    if (!meta.ok()) return describe("reading its signature", meta.error());
    for (size_t i = 0; i < meta->num_inputs(); ++i) {
      auto input = meta->input_tensor_meta(i);
      if (!input.ok()) return "input " + std::to_string(i) + " is not a tensor";
      const std::vector<executorch::aten::SizesType> sizes(input->sizes().begin(), input->sizes().end());
      input_info_.push_back(info_of(*input));
      buffers_.emplace_back(input->nbytes());
      tensors_.push_back(executorch::extension::make_tensor_ptr(sizes, buffers_.back().data(), input->scalar_type()));
    }
    for (size_t i = 0; i < meta->num_outputs(); ++i)
      if (auto output = meta->output_tensor_meta(i); output.ok()) output_info_.push_back(info_of(*output));
    return "";
  }

  std::vector<TensorInfo> input_info() override { return input_info_; }
  std::vector<TensorInfo> output_info() override { return output_info_; }

  std::vector<std::pair<void *, size_t>> inputs() override {
    std::vector<std::pair<void *, size_t>> spans;
    for (auto &buffer : buffers_) spans.emplace_back(buffer.data(), buffer.size());
    return spans;
  }

  std::string run() override {
    std::vector<executorch::runtime::EValue> values(tensors_.begin(), tensors_.end());
    events_.clear();
    auto result = module_->forward(values);
    if (!result.ok()) return describe("running the model", result.error());
    outputs_ = std::move(*result);
    return "";
  }

  std::vector<std::pair<const void *, size_t>> outputs() override {
    std::vector<std::pair<const void *, size_t>> spans;
    for (const auto &value : outputs_)
      if (value.isTensor()) spans.emplace_back(value.toTensor().const_data_ptr(), value.toTensor().nbytes());
    return spans;
  }

  std::vector<Event> events() override { return events_; }

 private:
  std::vector<TensorInfo> input_info_, output_info_;
  std::vector<Event> events_;
  std::unique_ptr<Module> module_;
  std::vector<std::vector<uint8_t>> buffers_;
  std::vector<executorch::extension::TensorPtr> tensors_;
  std::vector<executorch::runtime::EValue> outputs_;
};

}  // namespace

std::unique_ptr<Runtime> make_runtime() { return std::make_unique<ExecuTorch>(); }
