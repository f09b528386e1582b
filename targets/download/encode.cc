// The encoder's loops, for the machine that builds: the choices are made in edgecomp/devices/download.
#include <cstdint>
#include <cstring>
#include <vector>

#include "format.h"

using namespace edgecomp;

namespace {

// The symbols of a segment, in the order in which they are decoded.
std::vector<uint8_t> symbols_of(const uint8_t *data, uint64_t length, const Layout &layout) {
  if (layout.bits == 8) return {data, data + length};
  const size_t cells = length / layout.cell_bytes();
  std::vector<uint8_t> symbols(cells * layout.symbols());
  for (size_t cell = 0; cell < cells; ++cell) {
    const uint8_t *in = data + cell * layout.cell_bytes();
    uint8_t *out = symbols.data() + cell * layout.symbols();
    planes(layout.bits, [&](uint32_t shift, uint32_t width) {
      const uint32_t bytes = layout.lanes * width / 8, mask = (1u << width) - 1;
      for (uint32_t lane = 0; lane < layout.lanes; ++lane) {
        const uint32_t code = in[lane % bytes] >> (width * (lane / bytes)) & mask, i = lane % layout.symbols();
        out[i] = uint8_t(out[i] | code << (shift + (lane == i ? 0 : layout.bits)));
      }
      in += bytes;
    });
  }
  return symbols;
}

uint32_t context_of(const std::vector<uint8_t> &symbols, size_t i, const Layout &layout) {
  switch (layout.context) {
    case kLane: return i < layout.symbols() ? 0 : symbols[i - layout.symbols()];
    case kPlace: return uint32_t(i % layout.symbols() % layout.period);
    default: return uint32_t(i / layout.symbols() % layout.period);
  }
}

}  // namespace

extern "C" {

// Adds up in `counts`, (contexts, 2^symbol bits), how often each symbol follows each context. 0 if the layout is none.
int edgecomp_count(const uint8_t *data, uint64_t length, uint32_t bits, uint32_t join, uint32_t lanes,
                   uint32_t period, uint32_t context, uint64_t *counts) {
  const Layout layout{bits, join, lanes, period, Context(context)};
  if (!layout.valid(length)) return 0;
  const std::vector<uint8_t> symbols = symbols_of(data, length, layout);
  for (size_t i = 0; i < symbols.size(); ++i) ++counts[(context_of(symbols, i, layout) << layout.symbol_bits()) + symbols[i]];
  return 1;
}

// Writes the payload of a segment to `out`, at most `room` bytes, and returns its size; 0 if that is not enough.
// map: the table of each context. frequencies: (tables, 2^symbol bits), of every table 4096 together, none 0 that occurs.
uint64_t edgecomp_encode(const uint8_t *data, uint64_t length, uint32_t bits, uint32_t join, uint32_t lanes,
                         uint32_t period, uint32_t context, const uint8_t *map, const uint16_t *frequencies, uint32_t tables, uint8_t *out,
                         uint64_t room) {
  const Layout layout{bits, join, lanes, period, Context(context)};
  if (!layout.valid(length)) return 0;
  std::vector<uint32_t> starts(size_t(tables) << layout.symbol_bits());
  for (size_t i = 0; i < starts.size(); ++i)
    starts[i] = i & ((1u << layout.symbol_bits()) - 1) ? starts[i - 1] + frequencies[i - 1] : 0;
  const std::vector<uint8_t> symbols = symbols_of(data, length, layout);
  uint32_t states[kStates];
  for (uint32_t &state : states) state = kLowest;
  std::vector<uint16_t> words;
  for (size_t i = symbols.size(); i--;) {
    const size_t at = (size_t(map[context_of(symbols, i, layout)]) << layout.symbol_bits()) + symbols[i];
    uint32_t &state = states[i % kStates];
    const uint32_t frequency = frequencies[at];
    if (!frequency) return 0;
    if (state >= uint64_t(frequency) << 20) words.push_back(uint16_t(state)), state >>= 16;
    state = (state / frequency << kPrecision) + state % frequency + starts[at];
  }
  const uint64_t size = 4 * kStates + 2 * words.size();
  if (size > room) return 0;
  for (uint32_t state : states)
    for (int byte = 0; byte < 4; ++byte) *out++ = uint8_t(state >> 8 * byte);
  for (size_t i = words.size(); i--;) *out++ = uint8_t(words[i]), *out++ = uint8_t(words[i] >> 8);
  return size;
}
}
