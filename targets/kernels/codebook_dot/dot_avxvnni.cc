#include "dot.h"

#if defined(__x86_64__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#define EDGECOMP_SIMD __attribute__((target("avx2,fma,avxvnni")))
#define EDGECOMP_VECTOR_BYTES 32
#include <cpuid.h>
#include "dot_x86.h"

namespace edgecomp {
namespace {

EDGECOMP_SIMD inline Integers dot(Integers sums, Integers x, Integers weights) {
  return Integers(_mm256_dpbusd_avx_epi32(__m256i(sums), __m256i(x), __m256i(weights)));
}

// Leaf 7, subleaf 1: compilers of some years ago do not know its name. What has it has AVX2 that the system saves.
bool available() {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 4);
}

}  // namespace
}  // namespace edgecomp

#include "dot_vnni.h"

namespace edgecomp {

extern const Dot dot_avxvnni = made<6>("avxvnni", available);

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(avxvnni);
}
#endif
