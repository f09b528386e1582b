/* The threads of the runtime that a kernel runs in. */
#ifndef EDGECOMP_THREADS_H
#define EDGECOMP_THREADS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  void *pool;
  int32_t threads; /* at least 1 */
  /* Calls task(context, i) for every i below `count`, in any order and several at a time; returns when all are done. */
  void (*run)(void *pool, void (*task)(void *context, size_t index), void *context, size_t count);
} edgecomp_threads;

#endif
