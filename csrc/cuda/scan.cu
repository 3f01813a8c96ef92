// The scan of observe in one launch. Every block keeps the weights of some columns of each product in shared memory; a step is
// products by columns and, between them, rows of the batch by one block each, with a barrier of the whole grid after each phase.
#include <algorithm>

#include "cuda/gru.cuh"
#include "cuda/latent.cuh"
#include "cuda/launch.cuh"
#include "cuda/mma.cuh"
#include "cuda/scan.h"

namespace moto::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int kTile = 8;     // columns that one mma computes
constexpr int kTiles = 4;    // of them, side by side, by one warp
constexpr int kRows = 16;    // rows that one mma computes
constexpr int kDepth = 16;   // elements that one mma sums
constexpr int kPadding = 8;  // elements behind each column's weights: neighbours lie in different banks
constexpr int64_t kPartial = int64_t{kWarps} * kTiles * kRows * kTile;  // floats in which warps add up their sums

MOTO_DEVICE inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// A product's columns: which of them a block has, and what they take of its memory.
struct Columns {
  int64_t columns, depth;

  MOTO_DEVICE int64_t tiles() const { return (columns + kTile - 1) / kTile; }
  MOTO_DEVICE int64_t first_tile(int64_t block, int64_t blocks) const { return tiles() * block / blocks; }
  MOTO_DEVICE int64_t stride() const { return round_up(depth, kDepth) + kPadding; }
  // Elements for the block that has most.
  MOTO_DEVICE int64_t memory(int64_t blocks) const { return (tiles() + blocks - 1) / blocks * kTile * stride(); }
};

// The block's share of the weights, in its memory.
struct Slice {
  const BFloat16* weight;  // [8 tiles, stride]
  int64_t first;           // column
  int64_t tiles;
  Columns of;
};

// Copies the block's columns of weight [columns, depth] to `memory`, and moves it behind them. What lies beyond is zero.
__device__ Slice load_slice(const BFloat16* weight, const Columns& of, BFloat16*& memory) {
  const int64_t begin = of.first_tile(blockIdx.x, gridDim.x), end = of.first_tile(blockIdx.x + 1, gridDim.x);
  const Slice slice{memory, begin * kTile, end - begin, of};
  const int64_t stride = of.stride();
  for (int64_t i = threadIdx.x / kWarp; i < slice.tiles * kTile; i += kWarps) {
    const int64_t column = slice.first + i;
    for (int64_t k = threadIdx.x % kWarp; k < stride; k += kWarp) {
      memory[i * stride + k] = column < of.columns && k < of.depth ? weight[column * of.depth + k] : BFloat16{0};
    }
  }
  memory += of.memory(gridDim.x);
  return slice;
}

__device__ inline uint32_t pair_at(const BFloat16* p) { return *reinterpret_cast<const uint32_t*>(p); }

// rows [B, depth], `stride` apart, times the slice: done(b, column, sum) for each of the block's columns, by any of its threads.
// The warps share the summed dimension, and their sums are added in their order.
template <typename Done>
__device__ void multiply(const BFloat16* rows, int64_t stride, int64_t batch, const Slice& slice, float* partial,
                         const Done& done) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, group = lane / 4, within = lane % 4;
  const int64_t depth = slice.of.depth, weight_stride = slice.of.stride();
  for (int64_t row = 0; row < batch; row += kRows) {
    for (int64_t tile = 0; tile < slice.tiles; tile += kTiles) {
      const int64_t count = slice.tiles - tile < kTiles ? slice.tiles - tile : kTiles;
      float sums[kTiles][4] = {};
      const int64_t upper = row + group, lower = upper + 8;
      for (int64_t k = warp * kDepth; k < depth; k += kWarps * kDepth) {
        const int64_t left = k + 2 * within, right = left + 8;
        const uint32_t a[4] = {upper < batch && left < depth ? pair_at(rows + upper * stride + left) : 0,
                               lower < batch && left < depth ? pair_at(rows + lower * stride + left) : 0,
                               upper < batch && right < depth ? pair_at(rows + upper * stride + right) : 0,
                               lower < batch && right < depth ? pair_at(rows + lower * stride + right) : 0};
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          if (i < count) {
            const BFloat16* column = slice.weight + ((tile + i) * kTile + group) * weight_stride;
            const uint32_t b[2] = {pair_at(column + left), pair_at(column + right)};
            mma(sums[i], a, b);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        float* sum = partial + (warp * kTiles + i) * kRows * kTile + group * kTile + 2 * within;
        sum[0] = sums[i][0], sum[1] = sums[i][1], sum[8 * kTile] = sums[i][2], sum[8 * kTile + 1] = sums[i][3];
      }
      __syncthreads();
      for (int64_t i = threadIdx.x; i < count * kRows * kTile; i += blockDim.x) {
        float total = 0;
        for (int w = 0; w < kWarps; ++w) total += partial[w * kTiles * kRows * kTile + i];
        const int64_t b = row + i / kTile % kRows, column = slice.first + (tile + i / (kRows * kTile)) * kTile + i % kTile;
        if (b < batch && column < slice.of.columns) done(b, column, total);
      }
      __syncthreads();  // `partial` is free again
    }
  }
}

// All blocks of the grid wait for one another, and see what each wrote before.
__device__ void grid_barrier(unsigned* arrived, unsigned& wanted) {
  __syncthreads();
  wanted += gridDim.x;
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*static_cast<volatile unsigned*>(arrived) < wanted) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}

// row(b) for the rows that are this block's, always the same ones.
template <typename Row>
__device__ void for_own_rows(int64_t batch, const Row& row) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    row(b);
    __syncthreads();  // the row's shared memory is free again
  }
}

// A product is rounded to bfloat16 before anything is done with it, as ATen's is.
__device__ inline float rounded(float x) {
  BFloat16 bits;
  store(&bits, x);
  return load(&bits);
}

struct Forward {
  Columns gates, head, logits;

  explicit MOTO_DEVICE Forward(const ScanShape& n)
      : gates{3 * n.deter, n.units + n.deter}, head{n.hidden, n.deter}, logits{n.latent.params(), n.hidden} {}
  MOTO_DEVICE int64_t most_tiles() const { return max_of(gates.tiles(), max_of(head.tiles(), logits.tiles())); }
  MOTO_DEVICE int64_t weights(int64_t blocks) const { return gates.memory(blocks) + head.memory(blocks) + logits.memory(blocks); }
  static MOTO_DEVICE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
};

struct Backward {
  Columns hidden, head, inputs, latent;

  explicit MOTO_DEVICE Backward(const ScanShape& n)
      : hidden{n.hidden, n.latent.params()},
        head{n.deter, n.hidden},
        inputs{n.units + n.deter, 3 * n.deter},
        latent{n.latent.size(), n.units} {}
  MOTO_DEVICE int64_t most_tiles() const {
    return Forward::max_of(Forward::max_of(hidden.tiles(), head.tiles()), Forward::max_of(inputs.tiles(), latent.tiles()));
  }
  MOTO_DEVICE int64_t weights(int64_t blocks) const {
    return hidden.memory(blocks) + head.memory(blocks) + inputs.memory(blocks) + latent.memory(blocks);
  }
};

// A block's memory: sums of warps, then a row's, then weights.
inline int64_t row_memory(const ScanShape& n) { return round_up(sample_memory(n.latent, 1, kWarps), 4); }

template <typename Plan>
size_t bytes(const Plan& plan, const ScanShape& n, int64_t blocks) {
  return sizeof(float) * static_cast<size_t>(kPartial + row_memory(n)) +
         sizeof(BFloat16) * static_cast<size_t>(plan.weights(blocks));
}

__global__ void __launch_bounds__(kThreads, 1) scan_kernel(Scan x, int64_t row_floats) {
  const ScanShape n = x.shape;
  const int64_t B = n.batch, D = n.deter, V = n.units, U = n.hidden, P = n.latent.params(), width = V + D;
  const Forward plan(n);
  float* partial = block_memory<float>();
  float* memory = partial + kPartial;
  BFloat16* weights = reinterpret_cast<BFloat16*>(memory + row_floats);
  const Slice gates = load_slice(x.gru_weight, plan.gates, weights), head = load_slice(x.deter_weight, plan.head, weights);
  const Slice logits = load_slice(x.out_weight, plan.logits, weights);
  unsigned arrived = 0;

  // The input layer of step t; its rows are those whose latents this block draws.
  const auto input_layer = [&](int64_t t) {
    GatherLayer<float, BFloat16> layer{};
    layer.product = t == 0 ? x.first_product : nullptr, layer.addend = x.from_action + t * B * V;
    layer.out = x.inputs + t * B * width, layer.stride = width, layer.units = V, layer.is_first = x.is_first + t * B;
    if (t > 0) layer.index = x.index, layer.table = x.stoch_weight, layer.stoch = n.latent.stoch;
    return layer;
  };
  for_own_rows(B, [&](int64_t b) { gather_row(input_layer(0), b); });

  for (int64_t t = 0; t < n.steps; ++t) {
    grid_barrier(x.arrived, arrived);
    BFloat16* parts = x.parts + t * B * 3 * D;
    multiply(x.inputs + t * B * width, width, B, gates, partial,
             [&](int64_t b, int64_t j, float sum) { store(parts + b * 3 * D + j, sum); });
    grid_barrier(x.arrived, arrived);
    Gru<float, BFloat16> gru{};
    gru.parts = parts, gru.norm_weight = x.norm_weight, gru.norm_bias = x.norm_bias, gru.is_first = x.is_first + t * B;
    gru.previous = t == 0 ? x.start_deter : x.deter + (t - 1) * B * D, gru.stats = x.stats + t * B * 2, gru.deter = D;
    gru.out = x.deter + t * B * D, gru.operand = x.state + t * B * D, gru.stride = D;
    if (t + 1 < n.steps) {
      gru.next = x.inputs + (t + 1) * B * width + V, gru.next_stride = width, gru.next_first = x.is_first + (t + 1) * B;
    }
    for_own_rows(B, [&](int64_t b) { gru_row(gru, b, memory); });
    grid_barrier(x.arrived, arrived);
    const float* from_embed = x.from_embed + t * B * U;
    BFloat16* hidden = x.hidden + t * B * U;
    multiply(x.state + t * B * D, D, B, head, partial,
             [&](int64_t b, int64_t j, float sum) { store(hidden + b * U + j, elu(rounded(sum) + from_embed[b * U + j])); });
    grid_barrier(x.arrived, arrived);
    BFloat16* products = x.logits + t * B * P;
    multiply(hidden, U, B, logits, partial, [&](int64_t b, int64_t j, float sum) { store(products + b * P + j, sum); });
    grid_barrier(x.arrived, arrived);
    Sample<float, BFloat16> draw{};
    draw.latent = n.latent, draw.members = 1, draw.batch = B, draw.params = products, draw.bias = x.out_bias, draw.key = x.key;
    draw.first = x.key.row(t, B) * n.latent.stoch, draw.z = x.stoch + t * B * n.latent.size(), draw.index = x.index;
    draw.full = x.params + t * B * P;
    const GatherLayer<float, BFloat16> next = t + 1 < n.steps ? input_layer(t + 1) : GatherLayer<float, BFloat16>{};
    for_own_rows(B, [&](int64_t b) { sample_row(draw, next, b, memory); });
  }
}

__global__ void __launch_bounds__(kThreads, 1) scan_backward_kernel(ScanBackward x, int64_t row_floats) {
  const ScanShape n = x.shape;
  const int64_t B = n.batch, D = n.deter, V = n.units, U = n.hidden, Z = n.latent.size(), P = n.latent.params(), width = V + D;
  const Backward plan(n);
  float* partial = block_memory<float>();
  float* memory = partial + kPartial;
  BFloat16* weights = reinterpret_cast<BFloat16*>(memory + row_floats);
  const Slice to_hidden = load_slice(x.out_weight, plan.hidden, weights), to_head = load_slice(x.deter_weight, plan.head, weights);
  const Slice to_inputs = load_slice(x.gru_weight, plan.inputs, weights), to_z = load_slice(x.stoch_weight, plan.latent, weights);
  unsigned arrived = 0;

  // Behind step t's product: the last columns of its operand's gradient belong to the state before.
  const auto add_to_previous = [&](int64_t t, int64_t b) {
    if (x.is_first[t * B + b]) return;
    for (int64_t j = threadIdx.x; j < D; j += blockDim.x)
      x.grad_deter[b * D + j] += load(x.grad_inputs + (t * B + b) * width + V + j);
  };

  for (int64_t t = n.steps - 1; t >= 0; --t) {
    const bool last = t + 1 == n.steps;
    Sample<float, BFloat16> draw{};
    draw.latent = n.latent, draw.members = 1, draw.batch = B, draw.params = x.params + t * B * P, draw.bias = x.no_bias;
    draw.z = const_cast<float*>(x.stoch) + t * B * Z, draw.grad_z = last ? nullptr : x.grad_z + (t + 1) * B * Z;
    draw.forgotten = last ? nullptr : x.is_first + (t + 1) * B, draw.grad_extra = x.to_stoch ? x.to_stoch + t * B * Z : nullptr;
    draw.grad_full = x.to_params ? x.to_params + t * B * P : nullptr, draw.grad_params = x.grad_logits + t * B * P;
    for_own_rows(B, [&](int64_t b) {
      if (!last) add_to_previous(t + 1, b);
      sample_backward_row(draw, b, memory);
    });
    grid_barrier(x.arrived, arrived);
    const BFloat16* hidden = x.hidden + t * B * U;
    BFloat16* grad_hidden = x.grad_hidden + t * B * U;
    multiply(draw.grad_params, P, B, to_hidden, partial, [&](int64_t b, int64_t j, float sum) {
      store(grad_hidden + b * U + j, rounded(sum) * elu_slope(load(hidden + b * U + j)));
    });
    grid_barrier(x.arrived, arrived);
    BFloat16* grad_head = x.grad_head + t * B * D;
    multiply(grad_hidden, U, B, to_head, partial, [&](int64_t b, int64_t j, float sum) { store(grad_head + b * D + j, sum); });
    grid_barrier(x.arrived, arrived);
    Gru<float, BFloat16> gru{};
    gru.parts = x.parts + t * B * 3 * D, gru.norm_weight = x.norm_weight, gru.norm_bias = x.norm_bias;
    gru.previous = t == 0 ? x.start_deter : x.deter + (t - 1) * B * D, gru.is_first = x.is_first + t * B, gru.deter = D;
    gru.stats = const_cast<float*>(x.stats) + t * B * 2, gru.grad = x.grad_deter;
    gru.grad_heads = grad_head, gru.heads = 1, gru.batch = B;
    gru.grad_extra = x.to_deter ? x.to_deter + t * B * D : nullptr, gru.grad_parts = x.grad_parts + t * B * 3 * D;
    gru.grad_norm = x.grad_norm + t * B * 3 * D;
    for_own_rows(B, [&](int64_t b) { gru_backward_row(gru, b, memory); });
    grid_barrier(x.arrived, arrived);
    const BFloat16* inputs = x.inputs + t * B * width;
    BFloat16* grad_inputs = x.grad_inputs + t * B * width;
    multiply(gru.grad_parts, 3 * D, B, to_inputs, partial, [&](int64_t b, int64_t j, float sum) {
      const float slope = j < V ? elu_slope(load(inputs + b * width + j)) : 1.0f;
      store(grad_inputs + b * width + j, rounded(sum) * slope);
    });
    grid_barrier(x.arrived, arrived);
    BFloat16* grad_z = x.grad_z + t * B * Z;
    multiply(grad_inputs, width, B, to_z, partial, [&](int64_t b, int64_t j, float sum) { store(grad_z + b * Z + j, sum); });
    grid_barrier(x.arrived, arrived);
  }
  for_own_rows(B, [&](int64_t b) { add_to_previous(0, b); });
}

template <typename Plan>
int64_t blocks_for(const ScanShape& n, int64_t processors, int64_t most_bytes) {
  const Plan plan(n);
  const int64_t blocks = std::min(processors, plan.most_tiles());
  return static_cast<int64_t>(bytes(plan, n, blocks)) <= most_bytes ? blocks : 0;
}

}  // namespace

int64_t scan_blocks(const ScanShape& n, bool backward) {
  if (n.latent.kind != Latent::categorical || n.steps == 0 || n.batch == 0) return 0;
  // Pairs of elements are read at once, and no 32 bytes, which a cache loads together, may belong to two steps.
  for (const int64_t width : {n.deter, n.units, n.hidden, n.latent.params()}) {
    if (width % 2 || n.batch * width % 16) return 0;
  }
  int device = 0, processors = 0, most_bytes = 0, cooperative = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
  if (!cooperative) return 0;
  return backward ? blocks_for<Backward>(n, processors, most_bytes) : blocks_for<Forward>(n, processors, most_bytes);
}

cudaError_t scan(const Scan& x, int64_t blocks, cudaStream_t stream) {
  const int64_t row = row_memory(x.shape);
  return launch(scan_kernel, blocks, kThreads, bytes(Forward(x.shape), x.shape, blocks), true, stream, x, row);
}

cudaError_t scan_backward(const ScanBackward& x, int64_t blocks, cudaStream_t stream) {
  const int64_t row = row_memory(x.shape);
  return launch(scan_backward_kernel, blocks, kThreads, bytes(Backward(x.shape), x.shape, blocks), true, stream, x, row);
}

}  // namespace moto::cuda
