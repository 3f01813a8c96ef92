// The latent, one block a row of the batch, and which member each row is drawn from, one thread a row.
#include "cuda/cuda_kernels.h"
#include "cuda/latent.cuh"
#include "cuda/launch.cuh"

namespace moto::cuda {
namespace {

constexpr size_t kBlockMemory = 48u << 10;  // what a block has without asking

template <typename T, typename S>
__global__ void sample_kernel(Sample<T, S> x, GatherLayer<T, S> layer) {
  sample_row(x, layer, blockIdx.x, block_memory<T>());
}

template <typename T, typename S>
__global__ void sample_backward_kernel(Sample<T, S> x) {
  sample_backward_row(x, blockIdx.x, block_memory<T>());
}

__global__ void draw_members_kernel(int64_t* member, int64_t count, int64_t batch, PhiloxKey key, int64_t members, bool by_row) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count)
    member[i] = philox_member(key, static_cast<uint64_t>(by_row ? key.row(i / batch, batch) + i % batch : i / batch), members);
}

// Threads and bytes of a block of the sample's kernels: as many warps as have room.
template <typename T, typename S>
int sample_threads(const Sample<T, S>& x, size_t& bytes) {
  int warps = kThreads / kWarp;
  const auto size = [&] { return sizeof(T) * sample_memory(x.latent, x.members, warps); };
  while (warps > 1 && size() > kBlockMemory) warps /= 2;
  bytes = size();
  return warps * kWarp;
}

}  // namespace

template <typename T, typename S>
cudaError_t sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer, cudaStream_t stream) {
  size_t bytes;
  const int threads = sample_threads(x, bytes);
  return launch(sample_kernel<T, S>, x.batch, threads, bytes, false, stream, x, layer ? *layer : GatherLayer<T, S>{});
}

template <typename T, typename S>
cudaError_t sample_backward(const Sample<T, S>& x, cudaStream_t stream) {
  size_t bytes;
  const int threads = sample_threads(x, bytes);
  return launch(sample_backward_kernel<T, S>, x.batch, threads, bytes, false, stream, x);
}

cudaError_t draw_members(int64_t* member, int64_t steps, int64_t batch, PhiloxKey key, int64_t members, bool by_row,
                         cudaStream_t stream) {
  return launch(draw_members_kernel, blocks(steps * batch), kThreads, 0, false, stream, member, steps * batch, batch, key, members,
                by_row);
}

#define MOTO_INSTANTIATE(T, S)                                                              \
  template cudaError_t sample(const Sample<T, S>&, const GatherLayer<T, S>*, cudaStream_t); \
  template cudaError_t sample_backward(const Sample<T, S>&, cudaStream_t);
MOTO_INSTANTIATE(float, float)
MOTO_INSTANTIATE(float, BFloat16)
MOTO_INSTANTIATE(double, double)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
