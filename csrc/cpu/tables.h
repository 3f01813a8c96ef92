// The kernels that are compiled for each instruction set (cpu/isa), a table of them for each file: on rows [begin, end), in one
// thread.
#pragma once

#include "kernels/arguments.h"
#include "kernels/conv.h"
#include "kernels/pixels.h"

namespace moto::cpu {

// Rows [begin, end) of B.
struct Rows {
  int64_t begin, end;
};

// What a thread has of its own in `sample` and `sample_backward`.
template <typename T>
struct Workspace {
  const T* noise;  // [B, S]
  T* scratch;      // sample_scratch() elements
};

inline int64_t sample_scratch(const LatentShape& latent, int64_t members) {
  return members * (latent.params() + latent.size() + 1) + 4 * latent.params();
}

template <typename T, typename S>
struct LayerKernels {
  void (*gather_layer)(const GatherLayer<T, S>&, Rows);
  void (*input_backward)(const InputGrad<T, S>&, Rows);
  // values = ELU(values + bias): values [rows, units], of which each `batch` rows share one of bias [rows / batch, units].
  void (*bias_elu)(S* values, const T* bias, int64_t units, int64_t batch, Rows);
  // grad *= ELU'(.) where `values` are ELU's results; both [rows, units].
  void (*elu_backward)(S* grad, const S* values, int64_t units, Rows);
  // out[j] = the sum of column j of values [rows, stride], in the rows' order, for columns [begin, end).
  void (*column_sums)(const S* values, int64_t rows, int64_t stride, T* out, Rows columns);
};

template <typename T, typename S>
struct GruKernels {
  void (*gru)(const Gru<T, S>&, Rows);
  void (*gru_backward)(const Gru<T, S>&, Rows);
  void (*norm_grad)(const NormGrad<T, S>&, Rows columns);
};

template <typename T, typename S>
struct LatentKernels {
  void (*sample)(const Sample<T, S>&, const Workspace<T>&, Rows);
  void (*sample_backward)(const Sample<T, S>&, const Workspace<T>&, Rows);
};

template <typename T>
struct ConvKernels {
  // Elements of packed weights.
  int64_t (*gather_size)(const ConvShape&);
  int64_t (*scatter_size)(const ConvShape&);
  int64_t (*outer_size)(const ConvShape&);
  // Channels of small maps for `scatter` and `outer`: filled up with zeros to whole vectors.
  int64_t (*filled_channels)(const ConvShape&);
  // From weight [small_channels, kernel, kernel, big_channels].
  void (*pack_gather)(const ConvShape&, const T* weight, T* packed);
  void (*pack_scatter)(const ConvShape&, const T* weight, T* packed);
  // Back to that order.
  void (*unpack_outer)(const ConvShape&, const T* packed, T* weight);
  // small [frames, ...] = activation(big . weight + bias); `bias` may be null.
  void (*gather)(const ConvShape&, int64_t frames, const T* big, const T* packed, const T* bias, Activation, T* small);
  // big [frames, ...] = activation(small . weight + bias).
  void (*scatter)(const ConvShape&, int64_t frames, const T* small, const T* packed, const T* bias, Activation, T* big);
  // packed += the weights' gradient; of its blocks, which outer_blocks counts, those in [begin, end).
  int64_t (*outer_blocks)(const ConvShape&);
  void (*outer)(const ConvShape&, int64_t frames, const T* big, const T* small, T* packed, int64_t begin, int64_t end);
  // out = small, times the activation's slope at `result`, its channels filled up.
  void (*fill_up)(const ConvShape&, int64_t frames, const T* small, const T* result, Activation, T* out);
  // out = grad times the activation's slope at `result`.
  void (*slope)(const T* grad, const T* result, Activation, int64_t count, T* out);
  // sums [channels] += values [rows, channels], in the order of the rows.
  void (*channel_sums)(const T* values, int64_t rows, int64_t channels, T* sums);
};

template <typename T>
struct PixelKernels {
  // out [frames, big_rows, big_cols, big_channels] = pixel / 255 - offset.
  void (*read_pixels)(const Pixels&, const ConvShape&, int64_t frames, T offset, T* out);
  // Of a frame's values [rows, cols, channels] and its pixels: half the sum of squares of values - (pixel / 255 - 0.5), and that
  // difference times `scale`. `row` has room for a row.
  T (*squared_error)(const T* values, const Pixels&, int64_t rows, int64_t cols, int64_t channels, T* row);
  void (*error)(const T* values, const Pixels&, int64_t rows, int64_t cols, int64_t channels, T scale, T* out);
};

// The table for the widest vectors that this processor has.
template <typename Table>
const Table& table();

}  // namespace moto::cpu
