// Convolutions of stride 2 without padding, and their transposes, on maps with the channels last; each in one thread.
//
// A convolution leads from `big` maps to `small` ones, a transposed convolution back, and each one's gradient is the other:
//   gather   small[i, j] = sum over ky, kx of big[2i + ky, 2j + kx] weight[ky, kx]
//   scatter  the same weights from small to big
//   outer    the weights' gradient, from both maps
// No torch headers here: nothing may be shared between instruction sets.
#pragma once

#include <cstdint>

namespace moto {

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

}  // namespace moto
