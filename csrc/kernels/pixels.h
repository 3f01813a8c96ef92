// Frames of pixels, as the kernels take them. No torch headers here: nothing may be shared between instruction sets.
#pragma once

#include <cstdint>

namespace moto {

// A frame of uint8 pixels anywhere in memory.
struct Pixels {
  const uint8_t* data;
  int64_t frame, channel, row, col;  // strides
};

}  // namespace moto
