#include "dot.h"

#if defined(__x86_64__)
#define EDGECOMP_SIMD __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define EDGECOMP_VECTOR_BYTES 64
#include "dot_x86.h"

namespace edgecomp {
namespace {

EDGECOMP_SIMD inline Integers dot(Integers sums, Integers x, Integers weights) {
  return Integers(_mm512_dpbusd_epi32(__m512i(sums), __m512i(x), __m512i(weights)));
}

bool available() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}

}  // namespace
}  // namespace edgecomp

#include "dot_vnni.h"

namespace edgecomp {

extern const Dot dot_avx512vnni = made<12>("avx512vnni", available);

}  // namespace edgecomp
#else
namespace edgecomp {
EDGECOMP_DOT_ABSENT(avx512vnni);
}
#endif
