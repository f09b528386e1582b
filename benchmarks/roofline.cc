// What this x86-64 machine can do at most: bytes read per second of a buffer, and operations per second in registers.
//
// Every loop runs for `seconds` in each of `threads` threads; the result is what all of them did per second. The widest
// registers that the machine has are used (-march=native), as XNNPACK does. The loops are assembly: a compiler copies
// and spills the sums, which costs as much as what is measured.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__AVX512BW__)
#define WIDE "zmm"
constexpr int kWide = 64;
#else
#define WIDE "ymm"
constexpr int kWide = 32;
#endif

// 64 times `body` with \n from 2 to 13: twelve chains hide the latency of an instruction. Registers are zero at first.
#define CHAINS(body)                                                                                         \
  __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpxor %%xmm\\n,%%xmm\\n,%%xmm\\n\n.endr\n" \
                   ".rept 64\n.irp n,2,3,4,5,6,7,8,9,10,11,12,13\n" body "\n.endr\n.endr\n" ::                \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",      \
                         "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
#define SHUFFLE_AND_ADD(r) \
  "vpshufb %%" r "0,%%" r "1,%%" r "15\n vpaddb %%" r "15,%%" r "\\n,%%" r "\\n"

namespace {

constexpr int kChains = 12 * 64;

// Calls body(thread), which returns how much it did, until the time is over.
template <class Body>
double rate(size_t threads, double seconds, const Body &body) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> rates(threads);
  const auto work = [&](size_t thread) {
    const auto start = Clock::now();
    double done = 0, elapsed = 0;
    while (elapsed < seconds) {
      done += body(thread);
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    }
    rates[thread] = done / elapsed;
  };
  std::vector<std::thread> others;
  for (size_t thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread &other : others) other.join();
  double sum = 0;
  for (double one : rates) sum += one;
  return sum;
}

template <class Chains>
double in_registers(size_t threads, double seconds, int per_instruction, const Chains &chains) {
  return rate(threads, seconds, [&](size_t) {
    for (int i = 0; i < 64; ++i) chains();
    return 64.0 * kChains * per_instruction;
  });
}

}  // namespace

extern "C" {

// Each thread reads its own part of a buffer of `bytes`, again and again.
double edgecomp_bytes(size_t bytes, size_t threads, double seconds) {
  const size_t part = (bytes / threads + 511) / 512 * 512;
  const std::unique_ptr<char, decltype(&std::free)> buffer(
      static_cast<char *>(std::aligned_alloc(512, part * threads)), std::free);
  if (!buffer) return 0;
  std::memset(buffer.get(), 1, part * threads);
  const int passes = int(1 + (1 << 20) / part);  // the clock is not to be looked at too often
  return rate(threads, seconds, [&](size_t thread) {
    const char *from = buffer.get() + part * thread;
    for (int pass = 0; pass < passes; ++pass)
      for (size_t at = 0; at < part; at += 512)
        for (int i = 0; i < 512; i += kWide)
          __asm__ volatile("vmovups %0,%%" WIDE "0" ::"m"(from[at + i]) : "xmm0");
    return double(part) * passes;
  });
}

double edgecomp_fp32(size_t threads, double seconds) {
  return in_registers(threads, seconds, kWide / 4, [] { CHAINS("vfmadd231ps %%" WIDE "0,%%" WIDE "1,%%" WIDE "\\n"); });
}

double edgecomp_int8(size_t threads, double seconds) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
  return in_registers(threads, seconds, 64, [] { CHAINS("vpdpbusd %%zmm0,%%zmm1,%%zmm\\n"); });
#else
  return in_registers(threads, seconds, 32, [] {
    CHAINS("vpmaddubsw %%ymm0,%%ymm1,%%ymm15\n vpmaddwd %%ymm14,%%ymm15,%%ymm15\n vpaddd %%ymm15,%%ymm\\n,%%ymm\\n");
  });
#endif
}

// Codes to 8-bit products by a byte shuffle, and their sum.
double edgecomp_shuffle(size_t threads, double seconds) {
  return in_registers(threads, seconds, kWide, [] { CHAINS(SHUFFLE_AND_ADD(WIDE)); });
}

double edgecomp_shuffle_avx2(size_t threads, double seconds) {
  return in_registers(threads, seconds, 32, [] { CHAINS(SHUFFLE_AND_ADD("ymm")); });
}

// A code to its fp32 product, or to those of several inputs side by side, by one load from a table in the first cache,
// and their sum: for tables too long for a shuffle.
double edgecomp_load(size_t threads, double seconds) {
  static const std::vector<float> table(8 * 256, 1.0f);
  return rate(threads, seconds, [](size_t) {
    float sums[8] = {};
    uint64_t codes = 0x0123456789abcdef;
    for (int step = 0; step < 4096; ++step) {
      __asm__ volatile("" : "+r"(codes));
      for (int i = 0; i < 8; ++i) sums[i] += table[256 * i + ((codes >> (8 * i)) & 255)];
    }
    for (float &sum : sums) __asm__ volatile("" : "+x"(sum));
    return 4096.0 * 8;
  });
}
}
