// CRC-32 as zlib has it, four bytes at a time.
#pragma once

#include "format.h"

namespace edgecomp {

struct Crc32 {
  uint32_t tables[4][256];
  uint32_t value = ~0u;

  Crc32() {
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
      tables[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; ++i)
      for (int t = 1; t < 4; ++t) tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 255];
  }

  void add(const uint8_t *data, size_t bytes) {
    uint32_t crc = value;
    for (; bytes >= 4; data += 4, bytes -= 4) {
      crc ^= load32(data);
      crc = tables[3][crc & 255] ^ tables[2][crc >> 8 & 255] ^ tables[1][crc >> 16 & 255] ^ tables[0][crc >> 24];
    }
    for (; bytes; --bytes) crc = crc >> 8 ^ tables[0][(crc ^ *data++) & 255];
    value = crc;
  }

  uint32_t digest() const { return ~value; }
};

}  // namespace edgecomp
