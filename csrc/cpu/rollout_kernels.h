// What imagine and observe compute between their products, on rows [begin, end) of a batch, in one thread.
#pragma once

#include "moto/rollout.h"

namespace moto::cpu {

// bfloat16 as the kernels see it: no torch type, whose inline functions the linker could mix between instruction sets.
struct Half {
  uint16_t bits;
};

// Rows [begin, end) of B.
struct Rows {
  int64_t begin, end;
};

// A layer on a one-hot latent: the product with its weights is a sum of gathered rows.
template <typename T, typename S>
struct GatherLayer {
  const S* product;      // [B, U] the rest of the product, or null
  const T* addend;       // [B, U] added in full precision, or null
  const T* bias;         // [U] or null
  const int32_t* index;  // [B, stoch] the classes drawn, as rows of `table`; or null
  const S* table;        // [Z, U]
  const bool* is_first;  // [B] or null: rows that gather nothing
  int64_t stoch;
  const T* action;        // [B, A] or null
  const T* action_table;  // [A, U]
  int64_t actions;        // A
  S* out;                 // rows of U elements, `stride` apart; ELU of the sum
  int64_t stride;
  int64_t units;  // U
};

template <typename T, typename S>
struct Gru {
  const S* parts;        // [B, 3D] the product
  const T* norm_weight;  // [3D]
  const T* norm_bias;    // [3D]
  const T* previous;     // [B, D]
  const bool* is_first;  // [B] or null: rows whose previous state counts as zero
  T* stats;              // [B, 2] mean and reciprocal std of the parts
  int64_t deter;         // D
  // Forward.
  T* out;      // [B, D]
  S* operand;  // rows of D, `stride` apart, or null: the same for the next products
  int64_t stride;
  // Backward.
  T* grad;        // [B, D] gradient of the new state; becomes that of the previous one, but for the product's part
  S* grad_parts;  // [B, 3D]
  T* grad_norm;   // [B, 3D] gradient of the LayerNorm's result, or null
};

template <typename T, typename S>
struct Sample {
  LatentShape latent;
  int64_t members;        // K
  int64_t batch;          // B
  const S* params;        // [K, B, P] products
  const T* bias;          // [K, P]
  const int64_t* member;  // [B] the member that each row is drawn from
  const T* noise;         // [B, S]
  Spread kind;
  // Forward.
  T* z;                // [B, Z]
  S* operand;          // [B, Z] or null: z for the next product
  int32_t* index;      // [B, S] row of the latent's table that each variable drew
  T* full;             // [B, P] the chosen member's parameters with their bias, or null
  T* spread;           // [B] the disagreement, or null
  S* keep_probs;       // [K, B, P] or null: the members' class probabilities, where disagreement needed them; may be `params`
  // Backward.
  const T* grad_z;       // [B, Z] or null
  const T* grad_full;    // [B, P] or null
  const T* grad_spread;  // [B] or null
  S* grad_params;        // [K, B, P]
  bool probs;            // `params` are class probabilities
  T* scratch;            // forward and backward: sample_scratch() elements a row of a thread's own
};

inline int64_t sample_scratch(const LatentShape& latent, int64_t members) {
  return members * (latent.params() + latent.size() + 1) + 4 * latent.params();
}

// Gradients of the LayerNorm's weights, summed over rows in their order; `Rows` are columns here.
template <typename T, typename S>
struct NormGrad {
  const S* parts;  // [N, 3D]
  const T* stats;  // [N, 2]
  const T* grad;   // [N, 3D]
  int64_t rows;    // N
  int64_t width;   // 3D
  T* weight;       // [3D]
  T* bias;         // [3D]
};

template <typename T, typename S>
struct Kernels {
  void (*gather_layer)(const GatherLayer<T, S>&, Rows);
  void (*gru)(const Gru<T, S>&, Rows);
  void (*gru_backward)(const Gru<T, S>&, Rows);
  void (*norm_grad)(const NormGrad<T, S>&, Rows);
  void (*sample)(const Sample<T, S>&, Rows);
  void (*sample_backward)(const Sample<T, S>&, Rows);
  void (*bias_elu)(S* values, const T* bias, int64_t units, Rows);
  // grad *= ELU'(.) where `values` are ELU's results; both [B, units], `stride` apart.
  void (*elu_backward)(S* grad, int64_t grad_stride, const S* values, int64_t stride, int64_t units, Rows);
  // out[j] = the sum of column j of values [rows, stride], in the rows' order, for columns [begin, end).
  void (*column_sums)(const S* values, int64_t rows, int64_t stride, T* out, Rows columns);
};

// The kernels for the widest vectors that this processor has.
template <typename T, typename S>
const Kernels<T, S>& kernels();

}  // namespace moto::cpu
