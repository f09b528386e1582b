// Looking up on ARM64: one `tbl` looks up 16 products. Plain Armv8.0.
#include "simd.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <climits>

#define EDGECOMP_SIMD
#define EDGECOMP_VECTOR_BYTES 16
#include "simd_panel.h"
#include "simd_tables.h"

namespace edgecomp {
namespace {

struct Sixteen {
  float32x4_t v[4];

  static Sixteen zero() { return load_each([](int) { return vdupq_n_f32(0); }); }
  static Sixteen load(const float *p) { return load_each([p](int i) { return vld1q_f32(p + 4 * i); }); }
  static Sixteen load_half(const uint16_t *p) {
    const uint16x8_t low = vld1q_u16(p), high = vld1q_u16(p + 8);
    const float16x8_t halves[2] = {vreinterpretq_f16_u16(low), vreinterpretq_f16_u16(high)};
    return {{vcvt_f32_f16(vget_low_f16(halves[0])), vcvt_high_f32_f16(halves[0]), vcvt_f32_f16(vget_low_f16(halves[1])),
             vcvt_high_f32_f16(halves[1])}};
  }
  void store(float *p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v[i]);
  }
  void add_product(float x, const Sixteen &words) {
    for (int i = 0; i < 4; ++i) v[i] = vfmaq_n_f32(v[i], words.v[i], x);
  }
  Sixteen most(const Sixteen &other) const {
    return load_each([&](int i) { return vmaxq_f32(v[i], vabsq_f32(other.v[i])); });
  }
  float largest() const { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3]))); }
  Sixteen times(float factor) const {
    return load_each([&](int i) { return vmulq_n_f32(v[i], factor); });
  }
  // Rounded, eight signed 16-bit integers.
  int16x8_t rounded(int i) const {
    return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(v[2 * i])), vcvtnq_s32_f32(v[2 * i + 1]));
  }
  void to_bytes(uint8_t *p) const {
    const int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(rounded(0)), rounded(1));
    vst1q_u8(p, veorq_u8(vreinterpretq_u8_s8(bytes), vdupq_n_u8(0x80)));
  }
  void to_planes(uint8_t *p) const {
    const uint16x8_t offset = vdupq_n_u16(0x8000);
    const uint8x16_t low = vreinterpretq_u8_u16(veorq_u16(vreinterpretq_u16_s16(rounded(0)), offset));
    const uint8x16_t high = vreinterpretq_u8_u16(veorq_u16(vreinterpretq_u16_s16(rounded(1)), offset));
    vst1q_u8(p, vuzp1q_u8(low, high));
    vst1q_u8(p + kCodewords, vuzp2q_u8(low, high));
  }

 private:
  template <class Make>
  static Sixteen load_each(const Make &make) {
    return {{make(0), make(1), make(2), make(3)}};
  }
};

// As many 16-byte vectors as fit one load.
template <int count>
inline void load(const uint8_t *p, uint8x16_t (&v)[count]) {
  if constexpr (count == 4) {
    const uint8x16x4_t loaded = vld1q_u8_x4(p);
    for (int i = 0; i < count; ++i) v[i] = loaded.val[i];
  } else {
    for (int i = 0; i < count; ++i) v[i] = vld1q_u8(p + 16 * i);
  }
}

// 16-bit sums for 16 rows. They start where a sum of bytes less their offsets does.
struct Sums {
  uint16x8_t low, high;

  void start(int value) { low = high = vdupq_n_u16(uint16_t(value)); }
  void add(uint8x16_t bytes) {
    low = vaddw_u8(low, vget_low_u8(bytes));
    high = vaddw_high_u8(high, bytes);
  }
  void flush(float scale, float *out) const {
    const int16x8_t sums[2] = {vreinterpretq_s16_u16(low), vreinterpretq_s16_u16(high)};
    for (int i = 0; i < 2; ++i, out += 8) {
      vst1q_f32(out, vfmaq_n_f32(vld1q_f32(out), vcvtq_f32_s32(vmovl_s16(vget_low_s16(sums[i]))), scale));
      vst1q_f32(out + 4, vfmaq_n_f32(vld1q_f32(out + 4), vcvtq_f32_s32(vmovl_high_s16(sums[i])), scale));
    }
  }
  void flush(int16_t scale, int32_t *out) const {
    const int16x8_t sums[2] = {vreinterpretq_s16_u16(low), vreinterpretq_s16_u16(high)};
    for (int i = 0; i < 2; ++i, out += 8) {
      const int32x4_t first = vmlal_n_s16(vld1q_s32(out), vget_low_s16(sums[i]), scale);
      const int32x4_t second = vmlal_high_n_s16(vld1q_s32(out + 4), sums[i], scale);
      vst1q_s32(out, first), vst1q_s32(out + 4, second);
    }
  }
};

// Where sums of groups go, and their scales: as they are, or as integers for 32-bit sums.
template <class Sum, class Scale>
struct Totals {
  Sum *sums;  // input after input, as many as rows
  const Scale *scales[kMostInputs];
};

// `pieces` times 16 bytes of every cell, from `offset` on; or `whole` cells.
template <int inputs, int planes, int pieces, bool whole, class Sum, class Scale>
void accumulate_part(const Run &run, const Totals<Sum, Scale> &totals, int first_input, int offset) {
  const uint8x16_t nibble = vdupq_n_u8(15);
  // Copies, since compilers must think that the barrier below changes what pointers lead to.
  const int tables = run.shape.count, group = run.shape.group, rows = 2 * run.cell;
  const size_t cell = whole ? 16 * pieces : run.cell;
  const uint8_t *codes = run.codes + offset, *tables_of[inputs];
  const Scale *scales[inputs];
  Sum *sums[inputs];
#pragma GCC unroll 4
  for (int i = 0; i < inputs; ++i) {
    tables_of[i] = run.tables[first_input + i], scales[i] = totals.scales[first_input + i];
    sums[i] = totals.sums + size_t(first_input + i) * rows + offset;
  }
  for (int begin = 0; begin < tables; begin += group) {
    const int end = std::min(begin + group, tables);
    Sums low[inputs][planes][pieces], high[inputs][planes][pieces];
#pragma GCC unroll 4
    for (int i = 0; i < inputs; ++i)
#pragma GCC unroll 4
      for (int p = 0; p < planes; ++p)
#pragma GCC unroll 4
        for (int j = 0; j < pieces; ++j) {
          const int start = p == planes - 1 ? 128 * (begin - end) : 0;
          low[i][p][j].start(start), high[i][p][j].start(start);
        }
#pragma GCC unroll 4
    for (int t = begin; t < end; ++t, codes += cell) {
      uint8x16_t code[pieces];
      load(codes, code);
#pragma GCC unroll 4
      for (int j = 0; j < pieces; ++j) {
        const uint8x16_t low_codes = vandq_u8(code[j], nibble), high_codes = vshrq_n_u8(code[j], 4);
#pragma GCC unroll 4
        for (int i = 0; i < inputs; ++i)
#pragma GCC unroll 4
          for (int p = 0; p < planes; ++p) {
            const uint8x16_t table = vld1q_u8(tables_of[i] + p * kCodewords);
            low[i][p][j].add(vqtbl1q_u8(table, low_codes));
            high[i][p][j].add(vqtbl1q_u8(table, high_codes));
          }
      }
#pragma GCC unroll 4
      for (int i = 0; i < inputs; ++i) tables_of[i] += planes * kCodewords;
      asm volatile("" ::: "memory");  // else compilers load ahead for the next rounds until registers are spilled
    }
#pragma GCC unroll 4
    for (int i = 0; i < inputs; ++i) {
      const Scale scale = *scales[i]++;
#pragma GCC unroll 4
      for (int p = 0; p < planes; ++p)
#pragma GCC unroll 4
        for (int j = 0; j < pieces; ++j) {
          low[i][p][j].flush(p ? Scale(256 * scale) : scale, sums[i] + 16 * j);
          high[i][p][j].flush(p ? Scale(256 * scale) : scale, sums[i] + rows / 2 + 16 * j);
        }
    }
  }
}

// Sixteen sums fill half of the registers: four inputs, or four pieces of the cells, or two of both.
template <int planes, int together, class Sum, class Scale>
int accumulate_inputs(const Run &run, const Totals<Sum, Scale> &totals, int first) {
  constexpr int pieces = kMostInputs / together / planes > 0 ? kMostInputs / together / planes : 1;
  for (; first + together <= run.inputs; first += together) {
    if (run.cell == 16 * pieces)
      accumulate_part<together, planes, pieces, true>(run, totals, first, 0);
    else if (run.cell % (16 * pieces) == 0)
      for (int offset = 0; offset < run.cell; offset += 16 * pieces)
        accumulate_part<together, planes, pieces, false>(run, totals, first, offset);
    else if (run.cell == 32)
      accumulate_part<together, planes, 2, true>(run, totals, first, 0);
    else
      accumulate_part<together, planes, 1, true>(run, totals, first, 0);
  }
  return first;
}

template <class Sum, class Scale>
void accumulate_bytes(const Run &run, const Totals<Sum, Scale> &totals) {
  int first = accumulate_inputs<1, 4>(run, totals, 0);
  first = accumulate_inputs<1, 2>(run, totals, first);
  accumulate_inputs<1, 1>(run, totals, first);
}

// For sums in 32 bits: fewer groups do not pay, with more (all of 16) the scales below would have less than 10 bits.
constexpr int kFewestGroups = 4, kMostGroups = 1024;

// The largest integer scale with which sums cannot overflow.
int largest_scale(const TableShape &shape) {
  return std::min(32767, INT_MAX / (128 * shape.group * shape.groups()));
}

bool integers_serve(const TableShape &shape) {
  return shape.planes == 1 && shape.groups() >= kFewestGroups && shape.groups() <= kMostGroups && largest_scale(shape) >= 1000;
}

// Adds the sums of groups with scales rounded to integers: a third of the instructions.
void accumulate_integers(const Run &run) {
  alignas(16) int16_t scales[kMostInputs][kMostGroups];
  alignas(16) int32_t sums[kMostInputs * kMostLanes] = {};
  const int groups = run.shape.groups(), rows = 2 * run.cell;
  Totals<int32_t, int16_t> totals = {sums, {}};
  float units[kMostInputs];
  for (int i = 0; i < run.inputs; ++i) {
    const float *exact = run.shape.scales(run.tables[i]);
    float largest = 0.0f;
    for (int g = 0; g < groups; ++g) largest = std::max(largest, exact[g]);
    const float most = float(largest_scale(run.shape));
    const float factor = largest > 0.0f ? most / largest : 0.0f;
    for (int g = 0; g < groups; ++g) scales[i][g] = int16_t(exact[g] * factor + 0.5f);
    units[i] = largest / most, totals.scales[i] = scales[i];
  }
  accumulate_bytes(run, totals);
  for (int i = 0; i < run.inputs; ++i)
    for (int row = 0; row < rows; ++row) run.sums[i * rows + row] += units[i] * float(sums[i * rows + row]);
}

void accumulate(const Run &run) {
  if constexpr (has_tables(8))
    if (integers_serve(run.shape)) return accumulate_integers(run);
  Totals<float, float> totals = {run.sums, {}};
  for (int i = 0; i < run.inputs; ++i) totals.scales[i] = run.shape.scales(run.tables[i]);
  if constexpr (has_tables(8))
    if (run.shape.planes == 1) return accumulate_bytes(run, totals);
  if constexpr (has_tables(16)) {
    const int first = accumulate_inputs<2, 2>(run, totals, 0);
    accumulate_inputs<2, 1>(run, totals, first);
  }
}

}  // namespace

extern const Simd simd_neon = {"neon", [] { return true; }, 4, build_tables<Sixteen>, accumulate, multiply_panel};

}  // namespace edgecomp
#else
EDGECOMP_SIMD_ABSENT(neon)
#endif
