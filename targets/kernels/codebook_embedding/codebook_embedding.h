/* y = rows of W, W being codes (coded_matrix.h): what an embedding layer does. `y` is count x columns, row-major fp32. */
#ifndef EDGECOMP_CODEBOOK_EMBEDDING_H
#define EDGECOMP_CODEBOOK_EMBEDDING_H

#include "../coded_matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 0, and nothing written behind the rows done, if an index is not a row of W. */
int edgecomp_embedding_run(const edgecomp_matrix *w, const int64_t *index, int64_t count, float *y);

#ifdef __cplusplus
}
#endif
#endif
