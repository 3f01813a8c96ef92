// One block a row of the batch, unless said otherwise: a step's kernels are short, and what counts is that they are few.
#include "cuda/rollout.h"

#include "cuda/launch.h"
#include "cuda/rows.h"

namespace moto::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kBlockMemory = 48u << 10;  // what a block has without asking

template <typename T, typename S>
__global__ void gather_layer_kernel(GatherLayer<T, S> layer) {
  gather_row(layer, blockIdx.x);
}

template <typename T, typename S>
__global__ void bias_elu_kernel(S* values, const T* bias, int64_t units, int64_t batch) {
  S* row = values + blockIdx.x * units;
  const T* own = bias + blockIdx.x / batch * units;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) store(row + u, elu(load(row + u) + own[u]));
}

template <typename T, typename S>
__global__ void elu_backward_kernel(S* grad, const S* values, int64_t units) {
  S* g = grad + blockIdx.x * units;
  const S* v = values + blockIdx.x * units;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) store(g + u, load(g + u) * elu_slope<T>(load(v + u)));
}

template <typename T, typename S>
__global__ void input_backward_kernel(InputGrad<T, S> x) {
  const int64_t b = blockIdx.x, width = x.units + x.deter;
  S* grad = x.grad + b * width;
  const bool seen = x.grad_deter && !(x.is_first && x.is_first[b]);
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    if (j < x.units) {
      store(grad + j, load(grad + j) * elu_slope<T>(load(x.inputs + b * width + j)));
    } else if (seen) {
      x.grad_deter[b * x.deter + j - x.units] += load(grad + j);
    }
  }
}

template <typename T, typename S>
__global__ void gru_kernel(Gru<T, S> cell) {
  gru_row(cell, blockIdx.x, block_memory<T>());
}

template <typename T, typename S>
__global__ void gru_backward_kernel(Gru<T, S> cell) {
  gru_backward_row(cell, blockIdx.x, block_memory<T>());
}

// One thread a column.
template <typename T, typename S>
__global__ void norm_grad_kernel(NormGrad<T, S> norm) {
  const int64_t j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= norm.width) return;
  T weight = 0, bias = 0;
  for (int64_t b = 0; b < norm.rows; ++b) {
    const T grad = norm.grad[b * norm.width + j];
    weight += grad * (load(norm.parts + b * norm.width + j) - norm.stats[2 * b]) * norm.stats[2 * b + 1];
    bias += grad;
  }
  norm.weight[j] = weight;
  norm.bias[j] = bias;
}

template <typename T, typename S>
__global__ void sample_kernel(Sample<T, S> x, GatherLayer<T, S> layer) {
  sample_row(x, layer, blockIdx.x, block_memory<T>());
}

template <typename T, typename S>
__global__ void sample_backward_kernel(Sample<T, S> x) {
  sample_backward_row(x, blockIdx.x, block_memory<T>());
}

// The policy.

template <typename T, typename S>
__device__ inline ActionDraw<T, Normal> draw_action(const Act<T, S>& x, int64_t b, int64_t a) {
  const T* raw = x.raw + 2 * b * x.actions;
  const uint32_t word = philox_word(x.key, Stream::action, static_cast<uint64_t>((x.first + b) * x.actions + a));
  return ActionDraw<T, Normal>(x.kind, raw[a], raw[x.actions + a], x.min_std, philox_uniform<T>(word));
}

// The actor's last layer (a warp an output), the actions, and the layer that takes them.
template <typename T, typename S>
__global__ void act_kernel(Act<T, S> x, GatherLayer<T, S> layer) {
  T* memory = block_memory<T>();
  const int64_t b = blockIdx.x, A = x.actions;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int64_t o = warp; o < 2 * A; o += warps) {
    T total = 0;
    if (x.product) {
      total = lane == 0 ? load(x.product + 2 * b * A + o) : T(0);
    } else {
      for (int64_t u = lane; u < x.units; u += kWarp) total += load(x.hidden + b * x.units + u) * load(x.weight + o * x.units + u);
      total = warp_sum(total);
    }
    if (lane == 0) x.raw[2 * b * A + o] = total + x.bias[o];
  }
  __syncthreads();
  T entropy = 0;
  for (int64_t a = threadIdx.x; a < A; a += blockDim.x) {
    const auto draw = draw_action(x, b, a);
    x.action[b * A + a] = draw.action;
    entropy += draw.entropy();
  }
  entropy = block_sum(entropy, memory);
  if (threadIdx.x == 0) x.entropy[b] = entropy;
  if (!layer.out) return;
  __syncthreads();  // the layer reads the actions
  gather_row(layer, b);
}

// One thread an action.
template <typename T, typename S>
__global__ void act_backward_kernel(Act<T, S> x, int64_t rows) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, A = x.actions;
  if (i >= rows * A) return;
  const int64_t b = i / A, a = i % A;
  T* grad_raw = x.grad_raw + 2 * b * A;
  const T grad = x.grad_action ? x.grad_action[i] : T(0);
  draw_action(x, b, a).backward(grad, x.grad_entropy ? x.grad_entropy[b] : T(0), grad_raw[a], grad_raw[A + a]);
}

__global__ void draw_members_kernel(int64_t* member, int64_t count, int64_t batch, PhiloxKey key, int64_t members, bool by_row) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) member[i] = philox_member(key, static_cast<uint64_t>(by_row ? i : i / batch), members);
}

int64_t blocks(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

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
cudaError_t Launch<T, S>::gather_layer(const GatherLayer<T, S>& x, int64_t rows) const {
  return launch(gather_layer_kernel<T, S>, rows, kThreads, 0, false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows) const {
  return launch(bias_elu_kernel<T, S>, rows, kThreads, 0, false, stream, values, bias, units, batch);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::elu_backward(S* grad, const S* values, int64_t units, int64_t rows) const {
  return launch(elu_backward_kernel<T, S>, rows, kThreads, 0, false, stream, grad, values, units);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::input_backward(const InputGrad<T, S>& x, int64_t rows) const {
  return launch(input_backward_kernel<T, S>, rows, kThreads, 0, false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::gru(const Gru<T, S>& x, int64_t rows) const {
  return launch(gru_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::gru_backward(const Gru<T, S>& x, int64_t rows) const {
  return launch(gru_backward_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer) const {
  size_t bytes;
  const int threads = sample_threads(x, bytes);
  return launch(sample_kernel<T, S>, x.batch, threads, bytes, false, stream, x, layer ? *layer : GatherLayer<T, S>{});
}
template <typename T, typename S>
cudaError_t Launch<T, S>::sample_backward(const Sample<T, S>& x) const {
  size_t bytes;
  const int threads = sample_threads(x, bytes);
  return launch(sample_backward_kernel<T, S>, x.batch, threads, bytes, false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows) const {
  return launch(act_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x, layer ? *layer : GatherLayer<T, S>{});
}
template <typename T, typename S>
cudaError_t Launch<T, S>::act_backward(const Act<T, S>& x, int64_t rows) const {
  return launch(act_backward_kernel<T, S>, blocks(rows * x.actions), kThreads, 0, false, stream, x, rows);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::norm_grad(const NormGrad<T, S>& x) const {
  return launch(norm_grad_kernel<T, S>, blocks(x.width), kThreads, 0, false, stream, x);
}
template <typename T, typename S>
cudaError_t Launch<T, S>::draw_members(int64_t* member, int64_t steps, int64_t batch, PhiloxKey key, int64_t members,
                                       bool by_row) const {
  return launch(draw_members_kernel, blocks(steps * batch), kThreads, 0, false, stream, member, steps * batch, batch, key, members,
                by_row);
}

template struct Launch<float, float>;
template struct Launch<float, Half>;
template struct Launch<double, double>;

}  // namespace moto::cuda
