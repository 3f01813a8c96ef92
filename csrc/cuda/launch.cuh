// How kernels are launched and reach their block's shared memory. tests/cuda_emulation has a stand-in for this header that runs
// kernels on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace moto::cuda {

// The block's dynamic shared memory.
template <typename T>
__device__ T* block_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

// kernel<<<blocks, threads, bytes of shared memory, stream>>>(arguments...). Blocks of a cooperative launch all run at once.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t memory, bool cooperative, cudaStream_t stream,
                   Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;  // an empty grid is a launch error
  if (memory > (48u << 10)) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(memory));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = memory;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace moto::cuda
