/* Decodes a download (model.edgecomp) into the model's file, once, when it has arrived: see docs/download.md.
 *
 *   char why[256];
 *   if (edgecomp_unpack("model.edgecomp", "model.tflite", why, sizeof why)) puts(why);
 *
 * No function throws. What is damaged is refused, whatever its bytes; the file appears under its name when it is
 * complete, or not at all. */
#ifndef EDGECOMP_UNPACK_H
#define EDGECOMP_UNPACK_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* 0 if the file `to` is there now. Else `error`, if it is not NULL, holds why not, cut to `size` bytes. `to` is written
 * as `to`.partial first: one call at a time for a name. */
int edgecomp_unpack(const char *from, const char *to, char *error, size_t size);

/* The same for a download in memory, such as an asset that Android has mapped. */
int edgecomp_unpack_bytes(const void *data, size_t bytes, const char *to, char *error, size_t size);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
