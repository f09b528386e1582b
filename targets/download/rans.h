// Range variant of asymmetric numeral systems (Duda 2014; interleaved as in Giesen 2014): the decoder's inner loop.
//
// A state x in [2^16, 2^32) gives the symbol whose slots hold x mod 4096, and becomes frequency · ⌊x / 4096⌋ + (x mod
// 4096 − first slot); below 2^16 it takes in the next word. Eight states take turns, so that a processor works on eight
// symbols at once; their words lie in one stream, in the order in which they are asked for.
#pragma once

#include <cstring>

#include "format.h"

namespace edgecomp {

// What a state needs to know of a slot: symbol · 2^24 + place of the slot among its symbol's · 2^12 + frequency − 1.
using Table = uint32_t[kSlots];

// False if the frequencies of 2^bits symbols do not add up to the number of slots.
inline bool make_table(const uint16_t *frequencies, uint32_t bits, Table &table) {
  uint32_t slot = 0;
  for (uint32_t symbol = 0; symbol < 1u << bits; ++symbol) {
    const uint32_t frequency = frequencies[symbol];
    if (frequency > kSlots - slot) return false;
    for (uint32_t place = 0; place < frequency; ++place)
      table[slot++] = symbol << 24 | place << kPrecision | (frequency - 1);
  }
  return slot == kSlots;
}

struct Decoder {
  uint32_t states[kStates];
  const uint8_t *at, *end;
  bool ran_out = false;

  bool start(const uint8_t *data, size_t bytes) {
    if (bytes < 4 * kStates) return false;
    for (uint32_t i = 0; i < kStates; ++i) states[i] = load32(data + 4 * i);
    at = data + 4 * kStates, end = data + bytes;
    return true;
  }

  // Every state is where the encoder began, and every word was taken: else something is damaged.
  bool finished() const {
    for (uint32_t state : states)
      if (state != kLowest) return false;
    return at == end && !ran_out;
  }

  // `count` symbols, a multiple of 8 or the last ones. table(i): that of symbol i.
  template <typename TableOf>
  void decode(uint8_t *out, uint32_t count, const TableOf &table) {
    uint32_t i = 0, x[kStates];  // copies: what is written to `out` could be a part of this object
    const uint8_t *words = at;
    memcpy(x, states, sizeof x);
    for (; i + kStates <= count && size_t(end - words) >= 2 * kStates; i += kStates) {
#pragma GCC unroll 8
      for (uint32_t j = 0; j < kStates; ++j) {
        const uint32_t entry = table(i + j)[x[j] & (kSlots - 1)];
        const uint32_t next = advanced(x[j], entry), word = uint32_t(words[0]) | uint32_t(words[1]) << 8;
        const uint32_t low = 0u - (next < kLowest);  // a mask: no branch can foresee it
        x[j] = next << (low & 16) | (word & low);
        words += low & 2;
        out[i + j] = uint8_t(entry >> 24);
      }
    }
    memcpy(states, x, sizeof x);
    at = words;
    for (; i < count; ++i) {  // the words may end
      uint32_t &state = states[i % kStates];
      const uint32_t entry = table(i)[state & (kSlots - 1)];
      state = advanced(state, entry);
      out[i] = uint8_t(entry >> 24);
      if (state >= kLowest) continue;
      if (end - at < 2) {
        ran_out = true;
        continue;
      }
      state = state << 16 | uint32_t(at[0]) | uint32_t(at[1]) << 8;
      at += 2;
    }
  }

 private:
  // No overflow, whatever the state: 4096 · (2^20 − 1) + 4095 < 2^32.
  static uint32_t advanced(uint32_t state, uint32_t entry) {
    return ((entry & (kSlots - 1)) + 1) * (state >> kPrecision) + (entry >> kPrecision & (kSlots - 1));
  }
};

}  // namespace edgecomp
