#include "common.h"

#define VARIANT(name) extern "C" const edgecomp_linear_variant edgecomp_linear_##name;
#include "variants.inc"
#undef VARIANT

extern "C" const edgecomp_linear_variant *const edgecomp_linear_variants[] = {
#define VARIANT(name) &edgecomp_linear_##name,
#include "variants.inc"
#undef VARIANT
    nullptr};

const edgecomp_linear_variant *edgecomp_linear_select(const edgecomp_matrix *w) {
  for (auto variant = edgecomp_linear_variants; *variant; ++variant)
    if ((*variant)->supports(w)) return *variant;
  return nullptr;
}
