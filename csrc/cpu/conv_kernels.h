// Convolutions of stride 2 without padding, and their transposes, on maps with the channels last; each in one thread.
//
// A convolution leads from `big` maps to `small` ones, a transposed convolution back, and each one's gradient is the other:
//   gather   small[i, j] = sum over ky, kx of big[2i + ky, 2j + kx] weight[ky, kx]
//   scatter  the same weights from small to big
//   outer    the weights' gradient, from both maps
// No torch headers here: nothing may be shared between instruction sets.
#pragma once

#include <cstdint>

namespace moto::cpu {

enum class Activation : int64_t { none, elu, relu };

struct ConvShape {
  int64_t big_rows, big_cols, big_channels;
  int64_t small_rows, small_cols, small_channels;
  int64_t kernel;

  int64_t big_size() const { return big_rows * big_cols * big_channels; }
  int64_t small_size() const { return small_rows * small_cols * small_channels; }
  int64_t run() const { return kernel * big_channels; }  // a kernel's row, contiguous in big
  int64_t weights() const { return small_channels * kernel * run(); }
};

// A frame of uint8 pixels anywhere in memory.
struct Pixels {
  const uint8_t* data;
  int64_t frame, channel, row, col;  // strides
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
  // out [frames, big_rows, big_cols, big_channels] = pixel / 255 - offset.
  void (*read_pixels)(const Pixels&, const ConvShape&, int64_t frames, T offset, T* out);
  // Of a frame's values [rows, cols, channels] and its pixels: half the sum of squares of values - (pixel / 255 - 0.5), and that
  // difference times `scale`. `row` has room for a row.
  T (*squared_error)(const T* values, const Pixels&, int64_t rows, int64_t cols, int64_t channels, T* row);
  void (*error)(const T* values, const Pixels&, int64_t rows, int64_t cols, int64_t channels, T scale, T* out);
};

// The kernels for the widest vectors that this processor has.
template <typename T>
const ConvKernels<T>& conv_kernels();

}  // namespace moto::cpu
