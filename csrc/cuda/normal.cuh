// The quantile of the standard normal.
#pragma once

#include "cuda/block.cuh"

namespace moto::cuda {
namespace {

struct Normal {
  __device__ static float quantile(float p) { return normcdfinvf(p); }
  __device__ static double quantile(double p) { return normcdfinv(p); }
};

}  // namespace
}  // namespace moto::cuda
