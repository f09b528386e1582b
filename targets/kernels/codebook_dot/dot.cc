#include "dot.h"

#include "../codebook_linear/transpose.h"
#include "codebook_dot.h"

namespace edgecomp {

extern const Dot dot_avx512vnni, dot_avxvnni, dot_avx2, dot_i8mm, dot_dotprod, dot_neon, dot_plain;
const Dot *const dot_all[] = {
    &dot_avx512vnni, &dot_avxvnni, &dot_avx2, &dot_i8mm, &dot_dotprod, &dot_neon,
#ifdef EDGECOMP_PLAIN
    &dot_plain,
#endif
    nullptr};

const Dot *dot_under_test = nullptr;

const Dot &dot_best() {
  static const Dot *const best = [] {
    auto next = dot_all;
    while (!(*next)->available()) ++next;
    return *next;
  }();
  return dot_under_test ? *dot_under_test : *best;
}

namespace {

constexpr int kTileBytes = 24 * 1024;  // of packed weights: with the inputs that meet them they stay in the L1 cache
constexpr int kSums = 8192;            // of the positions that share a decoded tile
constexpr int kFinished = 64;          // positions whose outputs are put in order at a time
constexpr int64_t kPassBytes = 2 << 20;  // of the rounded inputs of a dense layer
constexpr int kRangeParts = 16;

// What is multiplied: positions, each with `taps` runs of channels.
struct Product {
  const Dot &dot;
  const edgecomp_matrix &w;
  const DotWords &words;
  const char *inputs;       // rounded
  const ptrdiff_t *taps;    // where the channels of a tap are, from those of the first one on, in bytes
  int tap_count, channels, padded;
  int positions, width;     // of the output; of a row of it
  size_t row_step, step;    // bytes from one row of positions to the next, from one position to the next
  const InputRange *ranges;
  int range_step;
  float *y;
  bool positions_last;      // outputs lie row by row of W
};

// Columns of a tile that are decoded at a time: some taps, or a part of one.
struct Panel {
  int taps, quads, parts;

  explicit Panel(const Product &p) {
    const int fit = kTileBytes / (4 * p.dot.rows * p.dot.weight_bytes), all = p.padded / 4;
    parts = edgecomp_divide_up(all, fit);
    quads = edgecomp_divide_up(edgecomp_divide_up(all, parts), p.dot.quads) * p.dot.quads;
    taps = parts > 1 ? 1 : edgecomp_divide_up(p.tap_count, edgecomp_divide_up(p.tap_count, std::max(1, fit / all)));
  }
};

// The outputs of one tile for some positions.
class Task {
 public:
  Task(const Product &p, int row, int first, int last) : p_(p), row_(row), first_(first), last_(last) {}

  void run() {
    const Panel panel(p_);
    bool add = false;
    for (int tap = 0; tap < p_.tap_count; tap += panel.taps)
      for (int part = 0; part < panel.parts; ++part, add = true) {
        const int quad = part * panel.quads, quads = std::min(panel.quads, p_.padded / 4 - quad);
        if (quads > 0) multiply(tap, std::min(panel.taps, p_.tap_count - tap), quad, quads, add);
      }
    finish();
  }

 private:
  void multiply(int tap, int taps, int quad, int quads, bool add) {
    const Dot &dot = p_.dot;
    const size_t tile = size_t(4) * quads * dot.rows;
    for (int t = 0; t < taps; ++t)
      p_.words.decode(row_, (tap + t) * p_.channels + 4 * quad, std::min(4 * quads, p_.channels - 4 * quad), quads,
                      decoded_ + t * tile);
    void *packed = dot.weight_bytes == 1 ? static_cast<void *>(decoded_) : packed_;
    dot.pack(decoded_, taps * quads, packed, row_sums_);
    const int count = last_ - first_, blocks = edgecomp_divide_up(count, dot.inputs);
    const size_t offset = size_t(4) * quad * dot.input_bytes();
    for (int block = 0; block < blocks; ++block) {
      const int begin = int64_t(count) * block / blocks, end = int64_t(count) * (block + 1) / blocks;
      const char *inputs[kMostDotInputs];
      for (int i = begin; i < end; ++i) {
        const int at = first_ + i;
        inputs[i - begin] = p_.inputs + at / p_.width * p_.row_step + at % p_.width * p_.step + offset;
      }
      dot.multiply({packed, inputs, end - begin, p_.taps + tap, taps, quads, sums_ + size_t(begin) * dot.rows, add});
    }
  }

  void finish() {
    const int rows = p_.dot.rows, there = std::min(rows, p_.w.rows - row_);
    float factor[kMostDotRows] = {}, bias[kMostDotRows] = {};
    for (int r = 0; r < there; ++r) {
      factor[r] = p_.words.scale() * (p_.w.scale ? p_.w.scale[row_ + r] : 1.0f);
      bias[r] = p_.w.bias ? p_.w.bias[row_ + r] : 0.0f;
    }
    alignas(64) float outputs[kFinished * kMostDotRows];
    for (int at = first_; at < last_; at += kFinished) {
      const int count = std::min(kFinished, last_ - at);
      p_.dot.finish({sums_ + size_t(at - first_) * rows, row_sums_, factor, bias, count,
                     p_.ranges + size_t(at) * p_.range_step, p_.range_step, p_.w.relu != 0, outputs});
      if (p_.positions_last) {
        transpose(outputs, rows, count, there, p_.y + size_t(row_) * p_.positions + at, p_.positions);
        continue;
      }
      for (int i = 0; i < count; ++i) std::copy_n(outputs + i * rows, there, p_.y + size_t(at + i) * p_.w.rows + row_);
    }
  }

  const Product &p_;
  const int row_, first_, last_;
  int32_t row_sums_[kMostDotRows] = {};
  alignas(64) int8_t decoded_[kTileBytes];
  alignas(64) char packed_[kTileBytes];
  alignas(64) int32_t sums_[kSums];
};

void run(const Product &p, const edgecomp_threads *threads) {
  const int tiles = edgecomp_divide_up(p.w.rows, p.dot.rows), wanted = 4 * count_threads(threads);
  int blocks = edgecomp_divide_up(p.positions, kSums / p.dot.rows);
  if (count_threads(threads) > 1 && tiles * blocks < wanted)  // more of them share less of what is decoded
    blocks = std::max(blocks, std::min(edgecomp_divide_up(wanted, tiles), edgecomp_divide_up(p.positions, kFinished)));
  for_each(threads, size_t(tiles) * blocks, [&](size_t i) {
    const int tile = int(i / blocks), block = int(i % blocks);
    const int first = int(int64_t(p.positions) * block / blocks), last = int(int64_t(p.positions) * (block + 1) / blocks);
    if (first < last) Task(p, tile * p.dot.rows, first, last).run();
  });
}

// Channels of a tap, filled up to what `dot` takes.
int padded_channels(const Dot &dot, int channels) {
  return edgecomp_divide_up(channels, 4 * dot.quads) * 4 * dot.quads;
}

// Where things are in the scratch memory for a dense layer.
struct LinearPlan {
  int padded, pass;  // inputs that are multiplied at a time
  size_t inputs, ranges, bytes;

  LinearPlan(const Dot &dot, const edgecomp_matrix &w, int64_t batch) : padded(padded_channels(dot, w.columns)) {
    const int64_t row = int64_t(padded) * dot.input_bytes();
    pass = int(std::min<int64_t>(std::clamp<int64_t>(kPassBytes / row, 128, 4096), std::max<int64_t>(batch, 1)));
    inputs = DotWords(w, dot).bytes();
    ranges = inputs + aligned(size_t(pass) * row);
    bytes = ranges + aligned(pass * sizeof(InputRange));
  }
};

// The same for a convolution: an image is rounded into a map with its padding around.
struct ConvPlan {
  int height, width;             // of the output
  int64_t map_height, map_width; // what the outputs see
  int padded;
  size_t map, taps, bytes;

  ConvPlan(const Dot &dot, const edgecomp_conv2d &c, const edgecomp_matrix &w)
      : height(edgecomp_conv2d_output(&c, 0)), width(edgecomp_conv2d_output(&c, 1)),
        map_height(seen(c, 0, height)), map_width(seen(c, 1, width)), padded(padded_channels(dot, c.channels)) {
    map = DotWords(w, dot).bytes();
    taps = map + aligned(size_t(map_height) * map_width * padded * dot.input_bytes());
    bytes = taps + aligned(sizeof(ptrdiff_t) * c.kernel[0] * c.kernel[1]);
  }
  static int64_t seen(const edgecomp_conv2d &c, int dimension, int size) {
    return int64_t(size - 1) * c.stride[dimension] + int64_t(c.dilation[dimension]) * (c.kernel[dimension] - 1) + 1;
  }
};

InputRange range_of_image(const Dot &dot, const float *x, size_t count, const edgecomp_threads *threads) {
  const int parts = count_threads(threads) > 1 ? kRangeParts : 1;
  float low[kRangeParts], high[kRangeParts];
  for_each(threads, parts, [&](size_t i) {
    const size_t first = count * i / parts, last = count * (i + 1) / parts;
    dot.range(x + first, last - first, low + i, high + i);
  });
  return InputRange(*std::min_element(low, low + parts), *std::max_element(high, high + parts));
}

// Rounds an image; `map` has its padding around it.
void round_image(const Dot &dot, const edgecomp_conv2d &c, const ConvPlan &plan, const InputRange &range, const float *x,
                 char *map, const edgecomp_threads *threads) {
  const size_t pixel = size_t(plan.padded) * dot.input_bytes(), row_bytes = pixel * plan.map_width;
  const int left = int(std::min<int64_t>(c.padding[1], plan.map_width));
  const int pixels = int(std::min<int64_t>(c.width, plan.map_width - left));
  for_each(threads, size_t(plan.map_height), [&](size_t i) {
    char *row = map + i * row_bytes;
    const int64_t from = int64_t(i) - c.padding[0];
    const int outside = dot.outside(range);
    if (from < 0 || from >= c.height || pixels == 0) {
      std::memset(row, outside, row_bytes);
      return;
    }
    std::memset(row, outside, left * pixel);
    std::memset(row + (left + pixels) * pixel, outside, row_bytes - (left + pixels) * pixel);
    const size_t across = size_t(c.height) * c.width, at = size_t(from) * c.width;
    InputBlock block = {x + at, 1, across, pixels, c.channels, plan.padded, range, row + left * pixel};
    if (c.channels_last) block.x = x + at * c.channels, block.position_stride = c.channels, block.column_stride = 1;
    dot.quantize(block);
  });
}

}  // namespace
}  // namespace edgecomp

using namespace edgecomp;

int edgecomp_dot_conv2d_fits(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  if (!edgecomp_dot_fits(w)) return 0;
  const int64_t height = ConvPlan::seen(*c, 0, edgecomp_conv2d_output(c, 0)), width = ConvPlan::seen(*c, 1, edgecomp_conv2d_output(c, 1));
  return height <= 2 * int64_t(c->height) + 64 && width <= 2 * int64_t(c->width) + 64;
}

size_t edgecomp_dot_linear_scratch_bytes(const edgecomp_matrix *w, int64_t batch) {
  return LinearPlan(dot_best(), *w, batch).bytes;
}

void edgecomp_dot_linear_run(const edgecomp_matrix *w, const float *x, int64_t batch, float *y, void *scratch,
                             const edgecomp_threads *threads) {
  const Dot &dot = dot_best();
  const LinearPlan plan(dot, *w, batch);
  char *memory = static_cast<char *>(scratch);
  DotWords words(*w, dot);
  words.make(memory);
  InputRange *ranges = reinterpret_cast<InputRange *>(memory + plan.ranges);
  const size_t row = size_t(plan.padded) * dot.input_bytes();
  const ptrdiff_t none = 0;
  for (int64_t first = 0; first < batch; first += plan.pass, x += size_t(plan.pass) * w->columns, y += size_t(plan.pass) * w->rows) {
    const int count = int(std::min<int64_t>(plan.pass, batch - first));
    for_each(threads, count, [&](size_t i) {
      const float *from = x + i * w->columns;
      float low, high;
      dot.range(from, w->columns, &low, &high);
      ranges[i] = InputRange(low, high);
      dot.quantize({from, size_t(w->columns), 1, 1, w->columns, plan.padded, ranges[i], memory + plan.inputs + i * row});
    });
    run({dot, *w, words, memory + plan.inputs, &none, 1, w->columns, plan.padded, count, count, 0, row, ranges, 1, y, false},
        threads);
  }
}

size_t edgecomp_dot_conv2d_scratch_bytes(const edgecomp_conv2d *c, const edgecomp_matrix *w) {
  return ConvPlan(dot_best(), *c, *w).bytes;
}

void edgecomp_dot_conv2d_run(const edgecomp_conv2d *c, const edgecomp_matrix *w, const float *x, float *y, void *scratch,
                             const edgecomp_threads *threads) {
  const Dot &dot = dot_best();
  const ConvPlan plan(dot, *c, *w);
  char *memory = static_cast<char *>(scratch);
  DotWords words(*w, dot);
  words.make(memory);
  const size_t pixel = size_t(plan.padded) * dot.input_bytes(), row = pixel * plan.map_width;
  ptrdiff_t *taps = reinterpret_cast<ptrdiff_t *>(memory + plan.taps);
  for (int i = 0; i < c->kernel[0]; ++i)
    for (int j = 0; j < c->kernel[1]; ++j)
      taps[i * c->kernel[1] + j] = ptrdiff_t(i * c->dilation[0] * row + j * c->dilation[1] * pixel);
  const size_t inputs = size_t(c->channels) * c->height * c->width, positions = size_t(plan.height) * plan.width;
  for (int b = 0; b < c->batch; ++b, x += inputs, y += positions * w->rows) {
    const InputRange range = range_of_image(dot, x, inputs, threads);
    round_image(dot, *c, plan, range, x, memory + plan.map, threads);
    run({dot, *w, words, memory + plan.map, taps, c->kernel[0] * c->kernel[1], c->channels, plan.padded, int(positions),
         plan.width, row * c->stride[0], pixel * c->stride[1], &range, 0, y, !c->channels_last},
        threads);
  }
}
