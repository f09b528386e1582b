#include "decode.h"

#include <cstring>
#include <memory>
#include <new>

#include "crc32.h"
#include "inflate.h"
#include "rans.h"

namespace edgecomp {
namespace {

constexpr size_t kPiece = 1 << 16;    // bytes of the file that are handed on at a time
constexpr uint64_t kMostPerByte = 1032;  // what deflate makes of a byte at most, and a container of one of its own

const char *const kDamaged = "the container is damaged";
const char *const kMemory = "not enough memory";
const char *const kStopped = "the file cannot be written";

// The description of segments, read without ever passing its end.
struct Head {
  const uint8_t *at, *end;
  bool bad = false;

  uint64_t number() {  // LEB128
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 63; shift += 7) {
      if (at == end) break;
      const uint8_t byte = *at++;
      value |= uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
    bad = true;
    return 0;
  }
  uint32_t number(uint64_t most) {
    const uint64_t value = number();
    if (value > most) bad = true;
    return bad ? 0 : uint32_t(value);
  }
};

// The file's bytes on their way to the sink, summed up and counted.
struct Output {
  Sink sink;
  uint64_t left;  // of the file
  Crc32 crc;
  std::unique_ptr<uint8_t[]> piece;
  size_t filled = 0;
  bool stopped = false;

  // Room for so many more bytes, at most kMostLanes; whoever asks has checked that they are part of the file.
  uint8_t *room(size_t bytes) {
    if (kPiece - filled < bytes) flush();
    uint8_t *at = piece.get() + filled;
    filled += bytes, left -= bytes;
    return at;
  }
  void copy(const uint8_t *data, size_t bytes) {
    while (bytes && !stopped) {
      const size_t some = bytes < kMostLanes ? bytes : kMostLanes;
      memcpy(room(some), data, some);
      data += some, bytes -= some;
    }
  }
  void flush() {
    crc.add(piece.get(), filled);
    stopped = stopped || (filled && !sink.take(sink.context, piece.get(), filled));
    filled = 0;
  }
};

struct Segment {
  uint64_t gap, length, packed;  // bytes: of the rest before it, of itself, of its payload
  Layout layout;                 // bits 0: stored as it is
  uint32_t tables;
  uint8_t map[kMostPeriod];  // context → table
};

// Memory that segments share.
struct Work {
  Segment segment;
  uint8_t symbols[2][kMostLanes];
  std::unique_ptr<Table[]> tables;
  uint32_t made = 0;

  bool reserve(uint32_t count) {
    if (count > made) tables.reset(new (std::nothrow) Table[count]), made = tables ? count : 0;
    return tables != nullptr;
  }
};

// What is wrong with the next segment's description, or nullptr.
const char *read_segment(Head &head, Work &work) {
  Segment &s = work.segment;
  s.gap = head.number(), s.length = head.number(), s.packed = head.number();
  Layout &layout = s.layout;
  layout.bits = head.number(8);
  if (head.bad) return kDamaged;
  if (!layout.bits) return s.packed == s.length ? nullptr : kDamaged;
  layout.join = head.number(2), layout.context = Context(head.number(kPlace));
  layout.lanes = head.number(kMostLanes), layout.period = head.number(kMostPeriod);
  s.tables = head.number(kMostTables);
  if (head.bad || !s.tables || !layout.valid(s.length)) return kDamaged;
  memset(s.map, 0, layout.contexts());
  for (uint32_t i = 0; s.tables > 1 && i < layout.contexts(); ++i) s.map[i] = uint8_t(head.number(s.tables - 1));
  if (!work.reserve(s.tables)) return kMemory;
  for (uint32_t t = 0; t < s.tables; ++t) {
    uint16_t frequencies[256] = {};
    for (uint32_t symbol = 0; symbol < 1u << layout.symbol_bits(); ++symbol) {
      frequencies[symbol] = uint16_t(head.number(kSlots));
      if (!frequencies[symbol]) symbol += head.number(255);  // so many more are 0, too
    }
    if (head.bad || !make_table(frequencies, layout.symbol_bits(), work.tables[t])) return kDamaged;
  }
  return nullptr;
}

// The two codes of each symbol of a cell.
void split(const uint8_t *__restrict symbols, const Layout &layout, uint8_t *__restrict codes) {
  const uint32_t half = layout.symbols(), mask = (1u << layout.bits) - 1;
  for (uint32_t i = 0; i < half; ++i) codes[i] = uint8_t(symbols[i] & mask);
  for (uint32_t i = 0; i < half; ++i) codes[half + i] = uint8_t(symbols[i] >> layout.bits);
}

// A bit plane of a cell: `shift` says which bits of the codes.
template <uint32_t kWidth>
inline void pack_plane(const uint8_t *__restrict codes, uint32_t shift, size_t bytes, uint8_t *__restrict out) {
  constexpr uint8_t kMask = uint8_t((1u << kWidth) - 1);
  for (size_t j = 0; j < bytes; ++j) {
    uint8_t byte = 0;
    for (uint32_t i = 0; i < 8 / kWidth; ++i)
      byte = uint8_t(byte | (codes[i * bytes + j] >> shift & kMask) << (kWidth * i));
    out[j] = byte;
  }
}

// The bytes of a cell. Inlined where `lanes` is known: the compiler then makes vectors of whole planes.
inline __attribute__((always_inline)) void pack(const uint8_t *codes, uint32_t bits, uint32_t lanes, uint8_t *out) {
  uint32_t shift = 0;
  if (bits & 4) pack_plane<4>(codes, shift, lanes / 2, out), out += lanes / 2, shift += 4;
  if (bits & 2) pack_plane<2>(codes, shift, lanes / 4, out), out += lanes / 4, shift += 2;
  if (bits & 1) pack_plane<1>(codes, shift, lanes / 8, out);
}

void write_cells(const uint8_t *symbols, uint32_t bytes, const Layout &layout, Output &out) {
  if (layout.bits == 8) {
    memcpy(out.room(bytes), symbols, bytes);
    return;
  }
  uint8_t codes[kMostLanes];
  for (; bytes; bytes -= uint32_t(layout.cell_bytes()), symbols += layout.symbols()) {
    if (layout.join == 2) split(symbols, layout, codes);
    const uint8_t *from = layout.join == 2 ? codes : symbols;
    uint8_t *to = out.room(layout.cell_bytes());
    if (layout.lanes == 128)  // the usual one, see packing.py
      pack(from, layout.bits, 128, to);
    else
      pack(from, layout.bits, layout.lanes, to);
  }
}

const char *decode_segment(const uint8_t *payload, Work &work, Output &out) {
  const Segment &s = work.segment;
  const Layout &layout = s.layout;
  if (!layout.bits) return out.copy(payload, size_t(s.length)), nullptr;
  Decoder decoder;
  if (!decoder.start(payload, size_t(s.packed))) return kDamaged;
  const Table *tables = work.tables.get();
  uint8_t *now = work.symbols[0], *before = work.symbols[1];
  memset(before, 0, kMostLanes);
  const uint32_t *places[kStates];
  for (uint32_t j = 0; j < kStates; ++j) places[j] = tables[s.map[j % (layout.period < 8 ? layout.period : 8)]];
  // As many cells at a time as share a table and have room.
  const uint32_t cells = s.tables == 1 ? kMostLanes / layout.lanes : 1;
  uint32_t cell = 0;  // mod the period
  for (uint64_t left = s.length; left && !out.stopped && !decoder.ran_out;) {
    const size_t most = cells * layout.cell_bytes();
    const uint32_t bytes = uint32_t(left < most ? left : most);
    const uint32_t count = bytes * 8 / layout.symbol_bits();
    if (s.tables == 1 || layout.context == kCell)
      decoder.decode(now, count, [table = &tables[s.map[cell]][0]](uint32_t) { return table; });
    else if (layout.context == kPlace)
      decoder.decode(now, count, [&](uint32_t i) { return places[i % kStates]; });
    else
      decoder.decode(now, count, [&](uint32_t i) -> const uint32_t * { return tables[s.map[before[i]]]; });
    write_cells(now, bytes, layout, out);
    uint8_t *last = before;
    before = now, now = last, left -= bytes;
    if (layout.context == kCell && ++cell == layout.period) cell = 0;
  }
  return decoder.finished() || out.stopped ? nullptr : kDamaged;
}

const char *decode_file(const uint8_t *data, size_t bytes, Sink sink) {
  if (bytes < kHeaderBytes || memcmp(data, kMagic, 8)) return "it is no download container of edgecomp";
  if (load32(data + 8) != kVersion) return "the container is of another version of edgecomp";
  Crc32 header;
  header.add(data, kHeaderBytes - 4);
  if (header.digest() != load32(data + kHeaderBytes - 4)) return kDamaged;
  const uint64_t file_bytes = load64(data + 16), rest_bytes = load64(data + 68), packed = load64(data + 76);
  const uint32_t segments = load32(data + 60), head_bytes = load32(data + 64);
  const uint8_t *payload = data + kHeaderBytes, *end = data + bytes;
  if (packed > uint64_t(end - payload) || rest_bytes > file_bytes || file_bytes / kMostPerByte > bytes) return kDamaged;
  const uint64_t deflated = rest_bytes + head_bytes;
  if (deflated < rest_bytes || deflated / kMostPerByte > packed || deflated != size_t(deflated)) return kDamaged;

  const std::unique_ptr<uint8_t[]> plain(new (std::nothrow) uint8_t[size_t(deflated) + 1]);
  const std::unique_ptr<Work> work(new (std::nothrow) Work);
  Output out{sink, file_bytes, {}, std::unique_ptr<uint8_t[]>(new (std::nothrow) uint8_t[kPiece])};
  if (!plain || !work || !out.piece) return kMemory;
  if (!inflate(payload, size_t(packed), plain.get(), size_t(deflated))) return kDamaged;
  payload += packed;

  Head head{plain.get(), plain.get() + head_bytes};
  const uint8_t *rest = head.end, *rest_end = rest + rest_bytes;
  for (uint32_t i = 0; i < segments; ++i) {
    if (const char *wrong = read_segment(head, *work)) return wrong;
    const Segment &s = work->segment;
    if (s.gap > uint64_t(rest_end - rest) || s.packed > uint64_t(end - payload)) return kDamaged;
    if (s.gap > out.left || s.length > out.left - s.gap) return kDamaged;
    out.copy(rest, size_t(s.gap));
    rest += s.gap;
    if (const char *wrong = decode_segment(payload, *work, out)) return wrong;
    payload += s.packed;
    if (out.stopped) return kStopped;
  }
  if (payload != end || head.at != head.end || uint64_t(rest_end - rest) != out.left) return kDamaged;
  out.copy(rest, size_t(rest_end - rest));
  out.flush();
  if (out.stopped) return kStopped;
  return out.crc.digest() == load32(data + 56) ? nullptr : kDamaged;
}

}  // namespace

const char *decode(const uint8_t *data, size_t bytes, Sink sink) { return decode_file(data, bytes, sink); }

}  // namespace edgecomp
