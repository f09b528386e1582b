// What the bench program needs of a runtime; one file per runtime implements it (targets/<runtime>/runtime.cc).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

class Runtime {
 public:
  virtual ~Runtime() = default;
  // Loads a model with full verification. Returns what went wrong, or "".
  virtual std::string load(const std::string &path, int threads) = 0;
  // The input buffers, to be filled before `run`.
  virtual std::vector<std::pair<void *, size_t>> inputs() = 0;
  // One inference. Returns what went wrong, or "".
  virtual std::string run() = 0;
  // The outputs of the last `run`.
  virtual std::vector<std::pair<const void *, size_t>> outputs() = 0;
};

std::unique_ptr<Runtime> make_runtime();
