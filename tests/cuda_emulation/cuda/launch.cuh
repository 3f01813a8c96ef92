// The stand-in for csrc/cuda/launch.cuh.
#pragma once

#include <cuda_runtime.h>

namespace moto::cuda {

template <typename T>
T* block_memory() {
  return static_cast<T*>(emulation::memory());
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t memory, bool cooperative, cudaStream_t,
                   Arguments... arguments) {
  emulation::run(blocks, threads, memory, cooperative, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}

}  // namespace moto::cuda
