// Multiplying decoded weights, for every SIMD implementation. Needs EDGECOMP_SIMD, as simd_tables.h does, and
// EDGECOMP_VECTOR_BYTES, the size of a register.
#pragma once

#include "simd.h"

namespace edgecomp {
namespace {

typedef float Vector __attribute__((vector_size(EDGECOMP_VECTOR_BYTES)));

template <int inputs>
EDGECOMP_SIMD void multiply_inputs(const Panel &panel) {
  constexpr int lanes = sizeof(Vector) / sizeof(float), vectors = kPanelRows / lanes;
  Vector sums[inputs][vectors];  // in registers: every loop over them must be unrolled
  const float *x = panel.x, *from = panel.weights;
  const size_t stride = panel.x_stride, step = panel.weights_stride;
#pragma GCC unroll 8
  for (int i = 0; i < inputs; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sums[i][v] = Vector{};
  for (int c = 0; c < panel.columns; ++c, from += step, ++x) {
    Vector weights[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) std::memcpy(&weights[v], from + v * lanes, sizeof(Vector));
#pragma GCC unroll 8
    for (int i = 0; i < inputs; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sums[i][v] += weights[v] * x[i * stride];
  }
#pragma GCC unroll 8
  for (int i = 0; i < inputs; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      float *to = panel.sums + i * panel.sums_stride + v * lanes;
      Vector sum;
      std::memcpy(&sum, to, sizeof(Vector));
      sum += sums[i][v];
      std::memcpy(to, &sum, sizeof(Vector));
    }
}

EDGECOMP_SIMD void multiply_panel(const Panel &panel) {
  static_assert(kPanelInputs == 6, "one case each");
  switch (panel.inputs) {
    case 1: return multiply_inputs<1>(panel);
    case 2: return multiply_inputs<2>(panel);
    case 3: return multiply_inputs<3>(panel);
    case 4: return multiply_inputs<4>(panel);
    case 5: return multiply_inputs<5>(panel);
    default: return multiply_inputs<6>(panel);
  }
}

}  // namespace
}  // namespace edgecomp
