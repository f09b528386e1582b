// The C API over whichever runtime is linked.
#include "edgecomp.h"

#include <cstdio>
#include <exception>

#include "../runtime.h"

struct edgecomp_model {
  std::unique_ptr<Runtime> runtime;
  std::vector<TensorInfo> inputs, outputs;
  std::string error;
  bool ran = false;
};

namespace {

// What a function returns that must not throw: missing memory is an error like others.
template <typename Function>
std::string guarded(const Function &function) {
  try {
    return function();
  } catch (const std::exception &error) {
    return error.what();
  } catch (...) {
    return "unknown error";
  }
}

edgecomp_tensor described(const std::vector<TensorInfo> &infos, size_t index) {
  if (index >= infos.size()) return {"", "", nullptr, 0};
  const TensorInfo &info = infos[index];
  return {info.name.c_str(), info.dtype.c_str(), info.shape.data(), info.shape.size()};
}

}  // namespace

extern "C" {

edgecomp_model *edgecomp_load(const char *path, int threads, char *error, size_t size) {
  std::unique_ptr<edgecomp_model> model;
  const std::string message = guarded([&]() -> std::string {
    if (!path) return "no path is given";
    if (threads < 1) return "threads must be 1 or more, not " + std::to_string(threads);
    model = std::make_unique<edgecomp_model>();
    model->runtime = make_runtime();
    if (std::string failure = model->runtime->load(path, threads, Profile::kNone); !failure.empty())
      return std::string(path) + ": " + failure;
    model->inputs = model->runtime->input_info();
    model->outputs = model->runtime->output_info();
    return "";
  });
  if (error && size) std::snprintf(error, size, "%s", message.c_str());
  return message.empty() ? model.release() : nullptr;
}

size_t edgecomp_input_count(const edgecomp_model *model) { return model->inputs.size(); }

size_t edgecomp_output_count(const edgecomp_model *model) { return model->outputs.size(); }

edgecomp_tensor edgecomp_input_info(const edgecomp_model *model, size_t index) {
  return described(model->inputs, index);
}

edgecomp_tensor edgecomp_output_info(const edgecomp_model *model, size_t index) {
  return described(model->outputs, index);
}

edgecomp_span edgecomp_input(edgecomp_model *model, size_t index) {
  const auto spans = model->runtime->inputs();
  return index < spans.size() ? edgecomp_span{spans[index].first, spans[index].second} : edgecomp_span{nullptr, 0};
}

int edgecomp_run(edgecomp_model *model) {
  model->error = guarded([&] { return model->runtime->run(); });
  model->ran = model->error.empty();
  return model->ran ? 0 : 1;
}

edgecomp_span edgecomp_output(edgecomp_model *model, size_t index) {
  if (!model->ran) return {nullptr, 0};
  const auto spans = model->runtime->outputs();
  if (index >= spans.size()) return {nullptr, 0};
  return {const_cast<void *>(spans[index].first), spans[index].second};
}

const char *edgecomp_error(const edgecomp_model *model) { return model->error.c_str(); }

void edgecomp_free(edgecomp_model *model) { delete model; }
}
