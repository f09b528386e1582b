#include "inflate.h"

#include <cstring>
#include <memory>
#include <new>

namespace edgecomp {
namespace {

constexpr int kLongest = 15;  // bits of a Huffman code

// Bits from the lowest of each byte on. Beyond the end they are zeros.
struct Bits {
  const uint8_t *at, *end;
  uint64_t held = 0;
  int count = 0, beyond = 0;

  // Whether bits were taken that are not there.
  bool missing() const { return count < beyond; }
  bool all_taken() const { return at == end && count - beyond < 8; }

  void want(int bits) {
    while (count < bits) {
      if (at == end) beyond += 8;
      held |= uint64_t(at == end ? 0 : *at++) << count, count += 8;
    }
  }
  uint32_t take(int bits) {
    want(bits);
    const uint32_t value = uint32_t(held & ((uint64_t(1) << bits) - 1));
    held >>= bits, count -= bits;
    return value;
  }
  void to_byte() { take(count % 8); }
};

// A canonical Huffman code: every string of 15 bits, as it lies in the stream, → symbol · 16 + length; 0 is none.
struct Huffman {
  uint16_t entry[1 << kLongest];

  // False if lengths are no prefix code. Incomplete ones are allowed: a stream without distances has one.
  bool make(const uint8_t *lengths, int symbols) {
    uint32_t next[kLongest + 2] = {}, used = 0;
    for (int i = 0; i < symbols; ++i)
      if (lengths[i]) ++next[lengths[i] + 1], used += 1u << (kLongest - lengths[i]);
    if (used > 1u << kLongest) return false;
    uint32_t code = 0;
    for (int bits = 1; bits <= kLongest; ++bits) code = (code + next[bits]) << 1, next[bits] = code;
    memset(entry, 0, sizeof entry);
    for (int i = 0; i < symbols; ++i) {
      const int bits = lengths[i];
      if (!bits) continue;
      uint32_t forward = next[bits]++, reversed = 0;
      for (int bit = 0; bit < bits; ++bit) reversed |= (forward >> bit & 1) << (bits - 1 - bit);
      for (uint32_t at = reversed; at < 1u << kLongest; at += 1u << bits) entry[at] = uint16_t(i << 4 | bits);
    }
    return true;
  }

  // A symbol, or -1.
  int read(Bits &bits) const {
    bits.want(kLongest);
    const uint32_t found = entry[bits.held & ((1u << kLongest) - 1)];
    bits.held >>= found & 15, bits.count -= int(found & 15);
    return found ? int(found >> 4) : -1;
  }
};

struct Codes {
  Huffman literals, distances;
};

bool fixed_codes(Codes &codes) {
  uint8_t lengths[288];
  for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  uint8_t fives[30];
  memset(fives, 5, sizeof fives);
  return codes.literals.make(lengths, 288) && codes.distances.make(fives, 30);
}

bool read_codes(Bits &bits, Codes &codes) {
  static const uint8_t kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  const int literals = int(bits.take(5)) + 257, distances = int(bits.take(5)) + 1, count = int(bits.take(4)) + 4;
  uint8_t lengths[286 + 30 + 2] = {};
  if (literals > 286 || distances > 30) return false;
  for (int i = 0; i < count; ++i) lengths[kOrder[i]] = uint8_t(bits.take(3));
  if (!codes.literals.make(lengths, 19)) return false;
  memset(lengths, 0, sizeof lengths);
  for (int i = 0; i < literals + distances;) {
    const int symbol = codes.literals.read(bits);
    if (symbol < 0 || bits.missing()) return false;
    if (symbol < 16) {
      lengths[i++] = uint8_t(symbol);
      continue;
    }
    if (symbol == 16 && i == 0) return false;
    const uint8_t value = symbol == 16 ? lengths[i - 1] : 0;
    int repeat = int(symbol == 16 ? 3 + bits.take(2) : symbol == 17 ? 3 + bits.take(3) : 11 + bits.take(7));
    if (repeat > literals + distances - i) return false;
    while (repeat--) lengths[i++] = value;
  }
  return codes.literals.make(lengths, literals) && codes.distances.make(lengths + literals, distances);
}

struct Output {
  uint8_t *data;
  size_t size, at = 0;
};

bool stored(Bits &bits, Output &out) {
  bits.to_byte();
  const uint32_t bytes = bits.take(16);
  if (bits.take(16) != (bytes ^ 0xFFFF) || bits.missing() || bytes > out.size - out.at) return false;
  for (uint32_t i = 0; i < bytes; ++i) out.data[out.at++] = uint8_t(bits.take(8));
  return !bits.missing();
}

bool compressed(Bits &bits, const Codes &codes, Output &out) {
  static const uint16_t kLength[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                       31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
  for (;;) {
    const int symbol = codes.literals.read(bits);
    if (symbol < 0 || bits.missing()) return false;
    if (symbol == 256) return true;
    if (symbol < 256) {
      if (out.at == out.size) return false;
      out.data[out.at++] = uint8_t(symbol);
      continue;
    }
    const int number = symbol - 257;
    if (number > 28) return false;
    const size_t length = kLength[number] + bits.take(number < 8 || number == 28 ? 0 : number / 4 - 1);
    const int far = codes.distances.read(bits);
    if (far < 0 || far > 29) return false;
    const size_t distance = far < 4 ? far + 1 : (size_t(2 + far % 2) << (far / 2 - 1)) + 1 + bits.take(far / 2 - 1);
    if (bits.missing() || distance > out.at || length > out.size - out.at) return false;
    for (size_t i = 0; i < length; ++i, ++out.at) out.data[out.at] = out.data[out.at - distance];
  }
}

}  // namespace

bool inflate(const uint8_t *in, size_t in_bytes, uint8_t *out_data, size_t out_bytes) {
  Bits bits{in, in + in_bytes};
  Output out{out_data, out_bytes};
  const std::unique_ptr<Codes> codes(new (std::nothrow) Codes);
  if (!codes) return false;
  for (bool last = false; !last;) {
    last = bits.take(1);
    const uint32_t kind = bits.take(2);
    if (bits.missing() || kind == 3) return false;
    if (kind == 0) {
      if (!stored(bits, out)) return false;
    } else {
      if (!(kind == 1 ? fixed_codes(*codes) : read_codes(bits, *codes))) return false;
      if (!compressed(bits, *codes, out)) return false;
    }
  }
  return out.at == out.size && bits.all_taken();
}

}  // namespace edgecomp
