// What the fuzzers of both runtimes' ops share: arguments made of arbitrary bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <random>
#include <vector>

namespace edgecomp_test {

// Numbers out of bytes, zeros when they are used up.
class Bytes {
 public:
  Bytes(const uint8_t *data, size_t size) : data_(data), left_(size) {}

  int next() { return left_ ? (--left_, *data_++) : 0; }
  int from(std::initializer_list<int> choices) { return choices.begin()[next() % choices.size()]; }
  int between(int low, int high) { return low + next() % (high - low + 1); }
  bool seldom() { return next() > 247; }
  // Mostly `value`; else one beside it, or anything.
  int32_t mostly(int64_t value) {
    if (!seldom()) return int32_t(value);
    if (next() % 2) return int32_t(value) + between(-2, 2);
    return int32_t(uint32_t(next()) << 24 | uint32_t(next()) << 12 | uint32_t(next()));
  }
  void fill(uint8_t *p, size_t size) {
    for (size_t i = 0; i < size; ++i) p[i] = uint8_t(next());
  }

 private:
  const uint8_t *data_;
  size_t left_;
};

// PROGRAM [CALLS [SEED]]: calls made of random bytes; `call` says 1 where the op accepts its arguments.
inline int run_random(int count, char **arguments, int (*call)(Bytes)) {
  const int most = count > 1 ? std::atoi(arguments[1]) : 30000;
  std::mt19937 generator(count > 2 ? std::atoi(arguments[2]) : 1);
  int calls = 0, accepted = 0;
  for (; calls < most; ++calls) {
    std::vector<uint8_t> bytes(256 + generator() % 4096);
    for (uint8_t &byte : bytes) byte = uint8_t(generator());
    accepted += call(Bytes(bytes.data(), bytes.size()));
  }
  const bool both = accepted > calls / 10 && accepted < calls * 9 / 10;  // else the bytes reach too little
  std::printf("%d calls, %d accepted, %d failures\n", calls, accepted, !both);
  return both ? 0 : 1;
}

}  // namespace edgecomp_test
