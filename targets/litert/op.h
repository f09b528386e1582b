// The custom ops as LiteRT and its Python interpreter call them: tensors in, tensors out, nothing of either API.
//
//   edgecomp_codebook_linear     x, codes, codebook [, scale] [, bias], settings; at least one of scale and bias
//   edgecomp_codebook_conv2d     the same, then two tensors as long as the output is high and wide
//   edgecomp_codebook_embedding  index (int32 or int64), codes, codebook [, scale], settings, a tensor as long as a row
//   edgecomp_recurrence          xp, h0 [, c0 of an LSTM], constants and settings as in kernels/recurrence/recurrence.h
//
// settings of the others (int32): rows, axis, tile, 1 if there is a scale, 1 if there is a bias, table bits, table group,
// relu; for a convolution also the height and width of kernel, stride, padding, dilation.
// `edgecomp/runtimes/litert/flatbuffer.py` writes them.
// x and y of a convolution are NHWC. The rest is as in coded_matrix.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edgecomp {

// The numbers of tflite_types.h, which both APIs use.
enum class ElementType : int32_t {
  kFloat32 = 1,
  kInt32 = 2,
  kUInt8 = 3,
  kInt64 = 4,
  kBool = 6,
  kInt16 = 7,
  kInt8 = 9,
  kFloat16 = 10,
  kFloat64 = 11,
};

struct OpTensor {
  ElementType type;
  std::vector<int32_t> shape;
  void *data;

  int64_t elements() const;
};

enum class Op { kLinear, kConv2d, kEmbedding, kRecurrence };

inline constexpr int kOps = 4;
inline constexpr const char *kOpNames[kOps] = {"edgecomp_codebook_linear", "edgecomp_codebook_conv2d",
                                               "edgecomp_codebook_embedding", "edgecomp_recurrence"};

// Shape of the output, which follows from the shapes of the inputs; empty if they are too few.
std::vector<int32_t> output_shape(Op op, const std::vector<std::vector<int32_t>> &inputs);

// Computes the output. Returns what is wrong with the arguments, or "".
std::string run_op(Op op, const std::vector<OpTensor> &inputs, const OpTensor &output);

}  // namespace edgecomp
