// Helpers of the operators on images: maps with the channels last.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <utility>

#include "kernels/pixels.h"
#include "ops/tensors.h"

namespace moto {

inline Tensor empty_maps(c10::SymInt frames, c10::SymInt channels, c10::SymInt rows, c10::SymInt cols, const Tensor& like) {
  return at::empty_symint({std::move(frames), std::move(channels), std::move(rows), std::move(cols)}, like.options(),
                          at::MemoryFormat::ChannelsLast);
}

inline Tensor last(const Tensor& maps) { return maps.contiguous(at::MemoryFormat::ChannelsLast); }

// Memory of one call, a block of elements after another.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : memory_(c10::GetCPUAllocator()->allocate(std::max<int64_t>(1, count) * sizeof(T))) {}
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  at::DataPtr memory_;
};

inline Pixels pixels_of(const Tensor& image, int64_t frame) {
  return {image.const_data_ptr<uint8_t>() + frame * image.stride(0), image.stride(0), image.stride(1), image.stride(2),
          image.stride(3)};
}

// Calls body(T{}) with the kernels' type for the tensor's dtype, which the checks have admitted.
template <typename Body>
void with_type(const Tensor& tensor, const Body& body) {
  tensor.scalar_type() == at::kDouble ? body(double{}) : body(float{});
}

}  // namespace moto
