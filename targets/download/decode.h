// Decodes a download container, a piece at a time, into whatever takes the pieces.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgecomp {

// Takes the next bytes of the file; false ends decoding.
struct Sink {
  bool (*take)(void *context, const uint8_t *data, size_t bytes);
  void *context;
};

// nullptr if the whole file went into the sink and has the checksum that the container tells, else what is wrong. Memory:
// 64 KB, 16 KB for each table of a segment (at most 1 MB), and what was deflated (at most 1032 times the container).
const char *decode(const uint8_t *data, size_t bytes, Sink sink);

}  // namespace edgecomp
