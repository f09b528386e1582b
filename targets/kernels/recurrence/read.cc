// From numbers and tensors of a file, which may be anything, to a recurrence whose sizes fit together.
#include <climits>

#include "recurrence.h"

namespace {

constexpr int32_t kMostIntegers = 1 << 16;           // columns whose products add up in 32 bits

bool is_flag(int32_t value) { return value == 0 || value == 1; }

// a * b; -1 if a factor is not positive, or the product too large.
int64_t product(int64_t a, int64_t b) { return a > 0 && b > 0 ? edgecomp_product(a, b) : -1; }

class Reader {
 public:
  Reader(const edgecomp_constant *constants, size_t count) : next_(constants), end_(constants + count) {}

  // The next constant's data; NULL if it is not of this size.
  const void *take(int64_t elements, int32_t element_bytes) {
    if (next_ == end_ || next_->elements != elements || next_->element_bytes != element_bytes) return nullptr;
    return (next_++)->data;
  }
  bool done() const { return next_ == end_; }

 private:
  const edgecomp_constant *next_, *end_;
};

bool read_codes(const int32_t *s, Reader *reader, edgecomp_matrix *w) {
  *w = {s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], nullptr, nullptr, s[9], nullptr, nullptr, s[10], s[11], 0};
  if (!edgecomp_matrix_is_valid(w) || !is_flag(s[9])) return false;
  w->codes = static_cast<const uint8_t *>(reader->take(int64_t(edgecomp_codes_bytes(w)), 1));
  w->codebook = reader->take(int64_t(edgecomp_codebook_elements(w)), s[9] ? 2 : 4);
  return w->codes && w->codebook;
}

bool read_weights(const int32_t *s, Reader *reader, edgecomp_matrix *w) {
  const bool integers = s[0] == 8 || s[0] == 4 || s[0] == 2;
  if (!integers && s[0] != 32) return false;
  if (integers && (s[2] > kMostIntegers || s[12] != 1)) return false;
  *w = {};
  w->rows = s[1], w->columns = s[2];
  const int64_t count = int64_t(s[1]) * s[2];
  const void *weights = integers ? reader->take((count * s[0] + 7) / 8, 1) : reader->take(count, 4);
  w->codes = static_cast<const uint8_t *>(weights);
  return weights;
}

bool read_factor(const int32_t *s, Reader *reader, edgecomp_factor *factor) {
  if (product(s[1], s[2]) < 0 || !is_flag(s[12]) || !is_flag(s[13])) return false;
  factor->bits = s[0];
  edgecomp_matrix *w = &factor->w;
  if (!(s[0] == 0 ? read_codes(s, reader, w) : read_weights(s, reader, w))) return false;
  if (s[12] && !(w->scale = static_cast<const float *>(reader->take(w->rows, 4)))) return false;
  return !s[13] || (w->bias = static_cast<const float *>(reader->take(w->rows, 4)));
}

}  // namespace

int edgecomp_recurrence_read(const int32_t *settings, size_t settings_count, const edgecomp_constant *constants,
                             size_t constants_count, const int32_t shape[4], edgecomp_recurrence *r) {
  if (settings_count < 3 || settings[0] < 0 || settings[0] > EDGECOMP_RNN_RELU || !is_flag(settings[1])) return 0;
  const int32_t count = settings[2];
  if (count < 1 || count > EDGECOMP_FACTORS) return 0;
  if (settings_count != size_t(3 + count * EDGECOMP_FACTOR_SETTINGS)) return 0;
  *r = {settings[0], settings[1], shape[0], shape[1], shape[3], count, {}};
  if (r->hidden <= 0 || shape[2] != int64_t(r->hidden) * edgecomp_recurrence_gates(r->kind)) return 0;
  const int64_t inputs = product(r->batch, shape[2]);  // of a step
  if (r->steps == INT32_MAX || inputs < 0 || product(inputs, r->steps) < 0) return 0;
  Reader reader(constants, constants_count);
  int32_t columns = r->hidden;
  for (int32_t i = 0; i < count; ++i) {
    edgecomp_factor *factor = r->factors + i;
    if (!read_factor(settings + 3 + i * EDGECOMP_FACTOR_SETTINGS, &reader, factor)) return 0;
    if (factor->w.columns != columns || product(r->batch, factor->w.rows) < 0) return 0;
    columns = factor->w.rows;
  }
  return columns == shape[2] && reader.done();
}
