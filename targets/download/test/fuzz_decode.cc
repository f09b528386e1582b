// Containers that are right, and changed ones: the first decode into what they were made of, whatever their layouts; of
// the others none may read or write beyond its bytes, or hang. Build it with -fsanitize=address,undefined.
//
//   fuzz_decode [CASES [SEED [CONTAINER…]]]
//
// Deflated bytes are stored here, so that changes reach the descriptions of segments; containers named on the command
// line, such as a build's, bring real deflate streams.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "../crc32.h"
#include "../decode.h"

using Bytes = std::vector<uint8_t>;
using edgecomp::Layout;

extern "C" {
int edgecomp_count(const uint8_t *, uint64_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint64_t *);
uint64_t edgecomp_encode(const uint8_t *, uint64_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, const uint8_t *,
                         const uint16_t *, uint32_t, uint8_t *, uint64_t);
}

namespace {

std::mt19937_64 chance;

uint32_t below(uint32_t n) { return uint32_t(chance() % n); }

void put(Bytes &out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(uint8_t(value >> 8 * i));
}

void number(Bytes &out, uint64_t value) {
  for (; value > 127; value >>= 7) out.push_back(uint8_t(value & 127) | 128);
  out.push_back(uint8_t(value));
}

void append(Bytes &out, const Bytes &more) { out.insert(out.end(), more.begin(), more.end()); }

Bytes skewed(size_t count) {  // bytes, of which some are much more frequent than others
  Bytes bytes(count);
  const uint32_t mask = below(256), rare = 1 + below(20);
  for (uint8_t &byte : bytes) byte = uint8_t(below(rare) ? below(256) & mask : below(256));
  return bytes;
}

// Frequencies of 4096 slots for counts, one for each that occurs at least.
void normalise(const uint64_t *counts, uint32_t symbols, uint16_t *frequencies) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < symbols; ++i) total += counts[i];
  uint32_t sum = 0, most = 0;
  for (uint32_t i = 0; i < symbols; ++i) {
    frequencies[i] = uint16_t(counts[i] ? 1 + counts[i] * 3800 / total : 0);
    if (frequencies[i] > frequencies[most]) most = i;
    sum += frequencies[i];
  }
  frequencies[most] = uint16_t(frequencies[most] + edgecomp::kSlots - sum);
}

// Adds a segment to head and payloads; its bytes.
Bytes add_segment(Bytes &head, Bytes &payloads, uint64_t gap) {
  Layout layout{1 + below(8), 1, 8 * (1 + below(20)), 1, edgecomp::Context(below(3))};
  if (layout.bits <= 4 && layout.lanes % 16 == 0) layout.join = 1 + below(2);
  layout.period = layout.context == edgecomp::kPlace ? 1u << below(4) : 1 + below(30);
  const size_t length = layout.bits == 8 ? below(3000) : below(40) * layout.cell_bytes();
  const Bytes data = skewed(length);
  number(head, gap), number(head, length);
  if (!below(8)) {
    number(head, length), number(head, 0), append(payloads, data);
    return data;
  }
  const uint32_t contexts = layout.contexts(), symbols = 1u << layout.symbol_bits(), tables = 1 + below(std::min(contexts, 5u));
  std::vector<uint64_t> counts(size_t(contexts) * symbols);
  if (!edgecomp_count(data.data(), length, layout.bits, layout.join, layout.lanes, layout.period, layout.context, counts.data()))
    puts("a layout is refused"), exit(1);
  Bytes map(contexts);
  std::vector<uint64_t> sums(size_t(tables) * symbols);
  for (uint32_t context = 0; context < contexts; ++context) {
    map[context] = uint8_t(below(tables));
    for (uint32_t i = 0; i < symbols; ++i) sums[map[context] * symbols + i] += counts[context * symbols + i];
  }
  std::vector<uint16_t> frequencies(sums.size());
  for (uint32_t t = 0; t < tables; ++t) normalise(&sums[t * symbols], symbols, &frequencies[t * symbols]);
  Bytes payload(64 + 16 * length);
  payload.resize(edgecomp_encode(data.data(), length, layout.bits, layout.join, layout.lanes, layout.period, layout.context,
                                 map.data(), frequencies.data(), tables, payload.data(), payload.size()));
  number(head, payload.size()), number(head, layout.bits), number(head, layout.join), number(head, layout.context), number(head, layout.lanes);
  number(head, layout.period), number(head, tables);
  if (tables > 1) append(head, map);
  for (uint32_t t = 0; t < tables; ++t)
    for (uint32_t i = 0; i < symbols; ++i) {
      number(head, frequencies[t * symbols + i]);
      if (frequencies[t * symbols + i]) continue;
      uint32_t more = 0;
      while (i + 1 < symbols && !frequencies[t * symbols + i + 1]) ++more, ++i;
      number(head, more);
    }
  append(payloads, payload);
  return data;
}

uint32_t crc_of(const uint8_t *data, size_t bytes) {
  edgecomp::Crc32 crc;
  crc.add(data, bytes);
  return crc.digest();
}

void seal(Bytes &container) {  // the checksum of the header
  const uint32_t crc = crc_of(container.data(), edgecomp::kHeaderBytes - 4);
  for (int i = 0; i < 4; ++i) container[edgecomp::kHeaderBytes - 4 + i] = uint8_t(crc >> 8 * i);
}

Bytes container_of(Bytes &file) {
  Bytes head, rest, payloads;
  const uint32_t segments = below(5);
  for (uint32_t i = 0; i <= segments; ++i) {
    const Bytes gap = skewed(below(2) * below(300));
    append(rest, gap), append(file, gap);
    if (i < segments) append(file, add_segment(head, payloads, gap.size()));
  }
  Bytes plain = head;
  append(plain, rest);
  Bytes deflated;
  for (size_t at = 0; at < plain.size() || deflated.empty();) {
    const size_t some = std::min<size_t>(plain.size() - at, 1 + below(2000));
    deflated.push_back(at + some == plain.size());
    put(deflated, plain.empty() ? 0 : some, 2), put(deflated, ~(plain.empty() ? 0 : some), 2);
    deflated.insert(deflated.end(), plain.begin() + long(at), plain.begin() + long(at + some));
    at += some;
  }
  Bytes out((const uint8_t *)edgecomp::kMagic, (const uint8_t *)edgecomp::kMagic + 8);
  put(out, edgecomp::kVersion, 4), put(out, 1, 4), put(out, file.size(), 8);
  out.resize(out.size() + 32);  // the SHA-256 is not read here
  put(out, crc_of(file.data(), file.size()), 4), put(out, segments, 4), put(out, head.size(), 4);
  put(out, rest.size(), 8), put(out, deflated.size(), 8), put(out, 0, 4);
  append(out, deflated), append(out, payloads);
  seal(out);
  return out;
}

bool collect(void *context, const uint8_t *data, size_t bytes) {
  Bytes &out = *(Bytes *)context;
  out.insert(out.end(), data, data + bytes);
  return out.size() < size_t(1) << 26;
}

// Decodes from memory of the exact size.
const char *decoded(const Bytes &container, Bytes &out) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[container.size()]);
  if (!container.empty()) memcpy(exact.get(), container.data(), container.size());
  return edgecomp::decode(exact.get(), container.size(), {collect, &out});
}

Bytes mutated(Bytes container) {
  for (uint32_t n = 1 + below(3); n && !container.empty(); --n) {
    const size_t at = below(2) ? below(uint32_t(container.size())) : below(uint32_t(std::min<size_t>(container.size(), 400)));
    switch (below(5)) {
      case 0: container[at] ^= uint8_t(1u << below(8)); break;
      case 1: container[at] = uint8_t(below(256)); break;
      case 2: container.resize(at); break;
      case 3: container.insert(container.begin() + long(at), uint8_t(below(256))); break;
      default: memset(&container[at], below(2) ? 255 : 0, std::min<size_t>(container.size() - at, 1 + below(9)));
    }
  }
  if (container.size() >= edgecomp::kHeaderBytes && below(4)) {
    memcpy(container.data(), edgecomp::kMagic, 8);
    container[8] = edgecomp::kVersion, container[9] = container[10] = container[11] = 0;
    seal(container);
  }
  return container;
}

}  // namespace

int main(int count, char **arguments) {
  const int cases = count > 1 ? atoi(arguments[1]) : 4000;
  chance.seed(count > 2 ? strtoull(arguments[2], nullptr, 10) : 0);
  std::vector<Bytes> given;
  for (int i = 3; i < count; ++i) {
    std::ifstream file(arguments[i], std::ios::binary);
    given.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  int failures = 0, refused = 0;
  for (int i = 0; i < cases; ++i) {
    Bytes file, out;
    const bool own = given.empty() || below(2);
    const Bytes container = own ? container_of(file) : given[below(uint32_t(given.size()))];
    if (const char *wrong = decoded(container, out); wrong || (own && out != file))
      ++failures, printf("case %d: %s\n", i, wrong ? wrong : "other bytes");
    for (int changes = 0; changes < 4; ++changes) {
      Bytes other;
      refused += decoded(mutated(container), other) != nullptr;
    }
  }
  printf("%d cases, %d changed ones refused, %d failures\n", cases, refused, failures);
  return failures != 0;
}
