// Parameters of imagine and observe, shared by the CPU and CUDA kernels. No torch headers here: cuda/*.cu must compile without
// torch.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MOTO_DEVICE __host__ __device__
#else
#define MOTO_DEVICE
#endif

// The letters of shapes are those of moto_pl/ops/__init__.py. T and S are also template parameters, of types: the full precision
// and that of the products' operands.

namespace moto {

// bfloat16 as the kernels see it: no torch type, whose inline functions the linker could mix between instruction sets.
struct BFloat16 {
  uint16_t bits;
};

enum class Latent : int64_t { categorical, gaussian };
enum class Spread : int64_t { mean, logit, log_prob, max_var };  // the estimators of the ensemble's disagreement
enum class Action : int64_t { trunc_normal, tanh_normal };

// Streams of moto_pl/ops/philox.py.
enum class Stream : uint32_t { latent = 0, action = 1, member = 2 };

// The stochastic latent z: S variables, of C classes each where categorical.
struct LatentShape {
  Latent kind;
  int64_t stoch;    // S
  int64_t classes;  // C; 1 where Gaussian

  MOTO_DEVICE int64_t size() const { return stoch * classes; }  // Z
  // P
  MOTO_DEVICE int64_t params() const { return kind == Latent::categorical ? size() : 2 * stoch; }
};

// Names a family of draws, and whose rows of a common batch these are: `rows` in all, from `first_row` on; 0 is all of them.
struct PhiloxKey {
  uint64_t seed;
  uint64_t offset;
  int64_t first_row;
  int64_t rows;
  // [2] in the device's memory, or null: seed and offset, read by the kernel in place of those above. A captured CUDA graph keeps
  // its kernels' arguments; what they point to is written anew before each replay.
  const int64_t* words;

  // The number of the first of `batch` rows in step t, counted over the common batch.
  MOTO_DEVICE int64_t row(int64_t t, int64_t batch) const { return rows == 0 ? t * batch : t * rows + first_row; }
};

}  // namespace moto
