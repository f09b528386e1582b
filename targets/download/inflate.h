// Deflate (RFC 1951), decoded into memory of a known size. Here since not every target has a zlib to link.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgecomp {

// True if `in` is a whole raw deflate stream of exactly `out_bytes` bytes; `out` is written to in any case.
bool inflate(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes);

}  // namespace edgecomp
