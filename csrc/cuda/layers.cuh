// A row of the batch by one block: layers.
#pragma once

#include "cuda/block.cuh"
#include "kernels/arguments.h"

namespace moto::cuda {
namespace {

template <typename T, typename S>
__device__ void gather_row(const GatherLayer<T, S>& layer, int64_t b) {
  const bool forgets = layer.is_first && layer.is_first[b];
  const int64_t gathered = layer.index && !forgets ? layer.stoch : 0;
  for (int64_t u = threadIdx.x; u < layer.units; u += blockDim.x) {
    T sum = layer.bias ? layer.bias[u] : T(0);
    if (layer.product && !forgets) sum += load(layer.product + b * layer.units + u);
    if (layer.addend) sum += layer.addend[b * layer.units + u];
    if (layer.action) {
      for (int64_t a = 0; a < layer.actions; ++a)
        sum += layer.action[b * layer.actions + a] * layer.action_table[a * layer.units + u];
    }
    for (int64_t s = 0; s < gathered; ++s) sum += load(layer.table + layer.index[b * layer.stoch + s] * layer.units + u);
    store(layer.out + b * layer.stride + u, elu(sum));
  }
}

}  // namespace
}  // namespace moto::cuda
