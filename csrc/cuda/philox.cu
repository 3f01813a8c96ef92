// Random numbers, one thread a Philox block of four.
#include "cuda/block.cuh"
#include "cuda/cuda_kernels.h"
#include "cuda/launch.cuh"
#include "kernels/philox.h"

namespace moto::cuda {
namespace {

template <typename T>
__device__ inline T number(uint32_t word) {
  return philox_uniform<T>(word);
}
template <>
__device__ inline int64_t number(uint32_t word) {
  return static_cast<int64_t>(word);
}

template <typename T>
__global__ void philox_kernel(PhiloxKey key, Stream name, int64_t count, T* out) {
  const int64_t block = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, first = 4 * block;
  if (first >= count) return;
  const PhiloxBlock drawn = philox_block(key, name, static_cast<uint64_t>(block));
  for (int64_t lane = 0; lane < 4 && first + lane < count; ++lane) out[first + lane] = number<T>(drawn.word[lane]);
}

}  // namespace

template <typename T>
cudaError_t philox(PhiloxKey key, Stream name, int64_t count, T* out, cudaStream_t stream) {
  return launch(philox_kernel<T>, blocks((count + 3) / 4), kThreads, 0, false, stream, key, name, count, out);
}

template cudaError_t philox(PhiloxKey, Stream, int64_t, float*, cudaStream_t);
template cudaError_t philox(PhiloxKey, Stream, int64_t, double*, cudaStream_t);
template cudaError_t philox(PhiloxKey, Stream, int64_t, int64_t*, cudaStream_t);

}  // namespace moto::cuda
