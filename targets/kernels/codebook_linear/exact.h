// Any k, s, axis and number of stages, in fp32.
#pragma once

#include "common.h"

namespace edgecomp {

void exact_linear(const edgecomp_matrix &w, const float *x, int64_t batch, float *y, const edgecomp_threads *threads);

}  // namespace edgecomp
