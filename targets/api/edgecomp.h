/* Runs an exported model: for apps in C and C++, and for all that can call C (JNI, Rust, Dart, Swift).
 *
 *   char why[256];
 *   edgecomp_model *model = edgecomp_load("model.tflite", 2, why, sizeof why);
 *   if (!model) { puts(why); return 1; }
 *   edgecomp_span x = edgecomp_input(model, 0);
 *   memcpy(x.data, pixels, x.bytes);
 *   if (edgecomp_run(model)) puts(edgecomp_error(model));
 *   edgecomp_span y = edgecomp_output(model, 0);
 *   edgecomp_free(model);
 *
 * A model may be used by one thread at a time; several models by as many threads. No function throws. Files are trusted:
 * LiteRT verifies none, so check where a file comes from, or its digest, before it is loaded. */
#ifndef EDGECOMP_H
#define EDGECOMP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

typedef struct edgecomp_model edgecomp_model;

/* Bytes that belong to the model. */
typedef struct {
  void *data;
  size_t bytes;
} edgecomp_span;

/* What a model takes or gives. The strings and sizes belong to the model. */
typedef struct {
  const char *name;  /* "" where the file keeps none, as a .pte does */
  const char *dtype; /* "float32", "int64", "bool": as numpy calls it */
  const int32_t *shape;
  size_t rank;
} edgecomp_tensor;

/* Loads a .tflite or a .pte, whichever this library was built for, to be run by so many threads (at least 1; ExecuTorch
 * has one pool for all models of a process, and the first one decides).
 * NULL if that fails; `error`, if it is not NULL, then holds why, cut to `size` bytes. */
edgecomp_model *edgecomp_load(const char *path, int threads, char *error, size_t size);

size_t edgecomp_input_count(const edgecomp_model *model);
size_t edgecomp_output_count(const edgecomp_model *model);

/* {"", "", NULL, 0} for an index that is too large. */
edgecomp_tensor edgecomp_input_info(const edgecomp_model *model, size_t index);
edgecomp_tensor edgecomp_output_info(const edgecomp_model *model, size_t index);

/* Where an input is to be written before a run; valid until the next run. {NULL, 0} for an index that is too large. */
edgecomp_span edgecomp_input(edgecomp_model *model, size_t index);

/* Runs the model once. 0 if all went well, else edgecomp_error says what did not. */
int edgecomp_run(edgecomp_model *model);

/* What the last run gave; valid until the next run. {NULL, 0} before the first, and for an index that is too large. */
edgecomp_span edgecomp_output(edgecomp_model *model, size_t index);

/* What went wrong in the last run, or "". */
const char *edgecomp_error(const edgecomp_model *model);

/* Frees a model and all that belongs to it; NULL is allowed. */
void edgecomp_free(edgecomp_model *model);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
