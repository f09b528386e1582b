#include "simd.h"

namespace edgecomp {

extern const Simd simd_avx512, simd_avx2, simd_neon, simd_plain;
const Simd *const simd_all[] = {
    &simd_avx512, &simd_avx2, &simd_neon,
#ifdef EDGECOMP_PLAIN
    &simd_plain,
#endif
    nullptr};

const Simd *simd_under_test = nullptr;

const Simd &simd_best() {
  static const Simd *const best = [] {
    auto next = simd_all;
    while (!(*next)->available()) ++next;
    return *next;
  }();
  return simd_under_test ? *simd_under_test : *best;
}

}  // namespace edgecomp
