// What a download container holds: docs/download.md describes it byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgecomp {

constexpr char kMagic[] = "edgecomp";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 88;

constexpr uint32_t kPrecision = 12;  // bits of a frequency
constexpr uint32_t kSlots = 1u << kPrecision;
constexpr uint32_t kStates = 8;         // interleaved coders: symbol i belongs to state i mod 8
constexpr uint32_t kLowest = 1u << 16;  // of a state; below it takes in a word of 16 bits
constexpr uint32_t kMostLanes = 4096;   // codes of a cell
constexpr uint32_t kMostTables = 64;    // of a segment: 1 MB for all of them
constexpr uint32_t kMostPeriod = 1u << 16;

// What chooses the table of a symbol.
enum Context : uint8_t {
  kCell = 0,   // the number of its cell, mod the period: a block of the matrix
  kLane = 1,   // the symbol at the same place of the cell before: the code to the left, or of the stage before
  kPlace = 2,  // its number in its cell, mod the period: the byte of a float
};

// How the codes of a segment lie in its bytes: cells of `lanes` codes, each cell split into bit planes whose widths are
// the powers of two that add up to `bits`, as packing.py has it. With 8 bits a code is a byte. A symbol is `join` codes,
// 1 or 2: code i and, in the higher bits, code i + lanes / 2.
struct Layout {
  uint32_t bits, join, lanes, period;
  Context context;

  size_t cell_bytes() const { return size_t(lanes) * bits / 8; }
  uint32_t symbol_bits() const { return bits * join; }
  uint32_t symbols() const { return lanes / join; }  // of a cell
  uint32_t contexts() const { return context == kLane ? 1u << symbol_bits() : period; }

  // Only the last cell may be short, and only where symbols are bytes.
  bool valid(uint64_t length) const {
    return bits >= 1 && bits <= 8 && (join == 1 || join == 2) && symbol_bits() <= 8 && lanes >= 8 &&
           lanes <= kMostLanes && lanes % (8 * join) == 0 && context <= kPlace &&
           period >= 1 && period <= (context == kPlace ? 8 : kMostPeriod) && 8 % (context == kPlace ? period : 1) == 0 &&
           (bits == 8 || length % cell_bytes() == 0);
  }
};

// Calls plane(shift, width) for each bit plane: 3 bits are (0, 2) and (2, 1).
template <typename Plane>
inline void planes(uint32_t bits, const Plane &plane) {
  uint32_t shift = 0;
  for (uint32_t width = 8; width; width /= 2)
    if (bits & width) plane(shift, width), shift += width;
}

inline uint32_t load32(const uint8_t *at) {
  return uint32_t(at[0]) | uint32_t(at[1]) << 8 | uint32_t(at[2]) << 16 | uint32_t(at[3]) << 24;
}

inline uint64_t load64(const uint8_t *at) { return load32(at) | uint64_t(load32(at + 4)) << 32; }

}  // namespace edgecomp
