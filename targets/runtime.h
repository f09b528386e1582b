// What the bench program and apps need of a runtime; one file per runtime implements it (targets/<runtime>/runtime.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// What runs are to note of their operators: nothing, when they began and ended, or the same by the clock of bench.cc
// that counts how often it is read.
enum class Profile { kNone, kTimes, kReadings };

// An operator, from when to when, in nanoseconds.
struct Event {
  std::string name;
  uint64_t begin, end;
};

// A tensor that a model takes or gives. The name is empty where the file keeps none.
struct TensorInfo {
  std::string name, dtype;  // as numpy calls it: float32, int64, bool
  std::vector<int32_t> shape;
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  // Whether `load` may be given any file: a damaged one is an error.
  virtual bool verifies_files() const = 0;
  // Loads a model, with full verification where there is any; a profile costs time and memory. Returns what went wrong,
  // or "".
  virtual std::string load(const std::string &path, int threads, Profile profile) = 0;
  // What the loaded model takes and gives, in the order of the buffers.
  virtual std::vector<TensorInfo> input_info() = 0;
  virtual std::vector<TensorInfo> output_info() = 0;
  // The input buffers, to be filled before `run`.
  virtual std::vector<std::pair<void *, size_t>> inputs() = 0;
  // One inference. Returns what went wrong, or "".
  virtual std::string run() = 0;
  // The outputs of the last `run`.
  virtual std::vector<std::pair<const void *, size_t>> outputs() = 0;
  // The operators of the last `run`, in order.
  virtual std::vector<Event> events() = 0;
};

std::unique_ptr<Runtime> make_runtime();
