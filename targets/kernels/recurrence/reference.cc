#include <vector>

#include "../codebook_linear/common.h"
#include "weights.h"

using namespace edgecomp;

namespace {

std::vector<float> product(const edgecomp_factor &factor, const std::vector<float> &x) {
  const edgecomp_matrix &w = factor.w;
  std::vector<float> y(w.rows);
  if (factor.bits == 0) {
    edgecomp_linear_reference(&w, x.data(), 1, y.data());
    return y;
  }
  const Grid grid(x.data(), w.columns);
  for (int row = 0; row < w.rows; ++row) {
    double sum = 0;
    for (int column = 0; column < w.columns; ++column) {
      const int64_t place = int64_t(row) * w.columns + column;
      if (factor.bits == 32) {
        sum += double(reinterpret_cast<const float *>(w.codes)[place]) * x[column];
      } else {
        int8_t weight;
        unpack_integers(factor, place, 1, &weight);
        sum += double(weight) * grid(x[column]) * grid.scale;
      }
    }
    y[row] = finished(w, row, float(sum));
  }
  return y;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

void edgecomp_recurrence_reference(const edgecomp_recurrence *r, const float *xp, const float *h0, const float *c0,
                                   float *y) {
  const int size = r->hidden, gates = edgecomp_recurrence_gates(r->kind);
  for (int b = 0; b < r->batch; ++b) {
    std::vector<float> h(h0 + size_t(b) * size, h0 + size_t(b + 1) * size), c;
    if (r->kind == EDGECOMP_LSTM) c.assign(c0 + size_t(b) * size, c0 + size_t(b + 1) * size);
    for (int done = 0; done < r->steps; ++done) {
      const size_t sample = size_t(r->reverse ? r->steps - 1 - done : done) * r->batch + b;
      std::vector<float> made = h;
      for (int i = 0; i < r->count; ++i) made = product(r->factors[i], made);
      for (int i = 0; i < size; ++i) {
        double x[4], g[4], sum[4];
        for (int gate = 0; gate < gates; ++gate) {
          x[gate] = xp[sample * gates * size + gate * size + i], g[gate] = made[gate * size + i];
          sum[gate] = x[gate] + g[gate];
        }
        if (r->kind == EDGECOMP_LSTM) {
          c[i] = float(sigmoid(sum[1]) * c[i] + sigmoid(sum[0]) * std::tanh(sum[2]));
          h[i] = float(sigmoid(sum[3]) * std::tanh(double(c[i])));
        } else if (r->kind == EDGECOMP_GRU) {
          const double z = sigmoid(sum[1]);
          h[i] = float((1 - z) * std::tanh(x[2] + sigmoid(sum[0]) * g[2]) + z * h[i]);
        } else {
          h[i] = float(r->kind == EDGECOMP_RNN_TANH ? std::tanh(sum[0]) : std::max(sum[0], 0.0));
        }
        y[sample * size + i] = h[i];
      }
    }
    if (r->kind == EDGECOMP_LSTM) std::copy(c.begin(), c.end(), y + (size_t(r->steps) * r->batch + b) * size);
  }
}
