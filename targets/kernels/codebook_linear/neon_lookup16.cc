// 16 codewords on ARM64: one `tbl` looks up 16 products. Plain Armv8.0.
#include "lookup16.h"

#if defined(__aarch64__)
#include <arm_neon.h>

using namespace edgecomp;

namespace {

// Four codebook values as fp32.
inline float32x4_t load4(const edgecomp_matrix &w, size_t index) {
  if (!w.codebook_is_half) return vld1q_f32(static_cast<const float *>(w.codebook) + index);
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t *>(w.codebook) + index)));
}

// The 16 products of table `t` = block * stages + stage.
inline void products_of(const edgecomp_matrix &w, const float *x, int t, float32x4_t out[4]) {
  const int block = t / w.stages, stage = t % w.stages;
  const size_t group = size_t(stage) * w.groups + block / edgecomp_blocks_per_group(&w);
  const size_t codebook = group * w.segment * 16;
  const float *segment = x + size_t(block) * w.segment;
  const int length = std::min(w.segment, w.columns - block * w.segment);
  for (int i = 0; i < 4; ++i) out[i] = vdupq_n_f32(0);
  for (int e = 0; e < length; ++e)
    for (int i = 0; i < 4; ++i) out[i] = vfmaq_n_f32(out[i], load4(w, codebook + e * 16 + i * 4), segment[e]);
}

// Signed bytes round(product / scale).
void build_tables(const edgecomp_matrix &w, const float *x, const Lookup16Scratch &scratch) {
  const int tables = lookup16_tables(w);
  for (int group = 0; group * kGroup < tables; ++group) {
    const int first = group * kGroup, count = std::min(kGroup, tables - first);
    float32x4_t most = vdupq_n_f32(0);
    for (int i = 0; i < count; ++i) {
      float32x4_t products[4];
      products_of(w, x, first + i, products);
      for (int j = 0; j < 4; ++j) {
        vst1q_f32(scratch.products + i * 16 + j * 4, products[j]);
        most = vmaxq_f32(most, vabsq_f32(products[j]));
      }
    }
    const float bound = vmaxvq_f32(most), inverse = bound > 0 ? 127.0f / bound : 0.0f;
    scratch.scales[group] = bound / 127.0f;
    for (int i = 0; i < count; ++i) {
      int16x4_t part[4];
      for (int j = 0; j < 4; ++j) {
        const float32x4_t v = vmulq_n_f32(vld1q_f32(scratch.products + i * 16 + j * 4), inverse);
        part[j] = vqmovn_s32(vcvtnq_s32_f32(v));
      }
      const int8x8_t low = vqmovn_s16(vcombine_s16(part[0], part[1])), high = vqmovn_s16(vcombine_s16(part[2], part[3]));
      vst1q_s8(reinterpret_cast<int8_t *>(scratch.tables) + size_t(first + i) * 16, vcombine_s8(low, high));
    }
  }
}

// Adds scale · sum to 8 fp32 sums.
inline void flush(int16x8_t sum, float scale, float *out) {
  vst1q_f32(out, vfmaq_n_f32(vld1q_f32(out), vcvtq_f32_s32(vmovl_s16(vget_low_s16(sum))), scale));
  vst1q_f32(out + 4, vfmaq_n_f32(vld1q_f32(out + 4), vcvtq_f32_s32(vmovl_high_s16(sum)), scale));
}

// Outputs of the 32 rows of a tile.
void tile_sums(const edgecomp_matrix &w, const Lookup16Scratch &scratch, int tile, float *out) {
  const uint8x16_t nibble = vdupq_n_u8(15);
  const int tables = lookup16_tables(w);
  const uint8_t *codes = w.codes + size_t(tile) * tables * 16;
  std::fill(out, out + 32, 0.0f);
  for (int group = 0; group * kGroup < tables; ++group) {
    const int first = group * kGroup, count = std::min(kGroup, tables - first);
    int16x8_t sums[4] = {vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0), vdupq_n_s16(0)};
    for (int i = first; i < first + count; ++i) {
      const int8x16_t table = vld1q_s8(reinterpret_cast<const int8_t *>(scratch.tables) + size_t(i) * 16);
      const uint8x16_t code = vld1q_u8(codes + size_t(i) * 16);
      const int8x16_t low = vqtbl1q_s8(table, vandq_u8(code, nibble)), high = vqtbl1q_s8(table, vshrq_n_u8(code, 4));
      sums[0] = vaddw_s8(sums[0], vget_low_s8(low));
      sums[1] = vaddw_high_s8(sums[1], low);
      sums[2] = vaddw_s8(sums[2], vget_low_s8(high));
      sums[3] = vaddw_high_s8(sums[3], high);
    }
    for (int i = 0; i < 4; ++i) flush(sums[i], scratch.scales[group], out + 8 * i);
  }
}

void run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *memory) {
  const Lookup16Scratch scratch(*w, memory);
  for (int64_t b = 0; b < batch; ++b) {
    build_tables(*w, x + b * w->columns, scratch);
    for (int row = 0; row < w->rows; row += 32) {
      float sums[32];
      tile_sums(*w, scratch, row / 32, sums);
      const int rows = std::min(32, w->rows - row);
      for (int i = 0; i < rows; ++i) y[b * w->rows + row + i] = scaled(*w, row + i, sums[i]);
    }
  }
}

}  // namespace

extern "C" const edgecomp_linear_variant edgecomp_linear_neon_lookup16 = {
    "neon_lookup16", lookup16_fits, Lookup16Scratch::bytes, run, 1 / 254.0f};
#else
EDGECOMP_LINEAR_ABSENT(neon_lookup16);
#endif
