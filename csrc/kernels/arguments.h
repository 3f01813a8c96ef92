// What imagine and observe compute between their products, as the arguments of kernels on B rows of a batch. Shared by the CPU and
// CUDA kernels; pointers are to the device's memory. T is the full precision (float or double), S the products' (T or bfloat16).
#pragma once

#include "kernels/types.h"

namespace moto {

// A layer on a one-hot latent: the product with its weights is a sum of gathered rows.
template <typename T, typename S>
struct GatherLayer {
  const S* product;      // [B, U] the rest of the product, or null
  const T* addend;       // [B, U] added in full precision, or null
  const T* bias;         // [U] or null
  const int32_t* index;  // [B, stoch] the classes drawn, as rows of `table`; or null
  const S* table;        // [Z, U]
  const bool* is_first;  // [B] or null: rows whose latent counts as zero: they have no product and gather nothing
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
  S* operand;  // rows of D, `stride` apart, or null: the same for the next product
  int64_t stride;
  S* next;  // rows of D, `next_stride` apart, or null: the same for the next step
  int64_t next_stride;
  const bool* next_first;  // [B] or null: rows of `next` that are to be zero
  // Backward. The new state's gradient is the sum of all these.
  T* grad;              // [B, D] by way of later states; becomes that of the previous state, but for the product's part
  const S* grad_heads;  // [heads, B, D] by way of the latent, a head each
  int64_t heads;
  int64_t batch;        // B
  const T* grad_extra;  // [B, D] or null: of the result itself
  S* grad_parts;        // [B, 3D]
  T* grad_norm;         // [B, 3D] gradient of the LayerNorm's result; or null, where not kKeepsGradNorm
};

// Behind the GRU's product, in backward: its operand's gradient meets the input layer's ELU and the previous state.
template <typename T, typename S>
struct InputGrad {
  S* grad;               // [B, V + D]; the first V columns are multiplied by ELU' in place
  const S* inputs;       // [B, V + D]
  T* grad_deter;         // [B, D] or null: receives the last D columns
  const bool* is_first;  // [B] or null: rows whose previous state counted as zero
  int64_t units;         // V
  int64_t deter;         // D
};

template <typename T, typename S>
struct Sample {
  LatentShape latent;
  int64_t members;        // K
  int64_t batch;          // B
  const S* params;        // [K, B, P] products
  const T* bias;          // [K, P]
  const int64_t* member;  // [B] the member that each row is drawn from; null where there is but one
  PhiloxKey key;
  int64_t first;  // variable s of row b draws number first + b S + s of the latent stream
  Spread kind;
  // Forward.
  T* z;            // [B, Z]
  S* operand;      // [B, Z] or null: z for the next product
  int32_t* index;  // [B, S] row of the latent's table that each variable drew
  T* full;         // [B, P] the chosen member's parameters with their bias, or null
  T* spread;       // [B] the disagreement, or null
  S* keep_probs;   // [K, B, P] or null: the members' class probabilities, where disagreement needed them; may be `params`
  // Backward. The latent's gradient is the sum of two.
  const S* grad_z;        // [B, Z] or null: by way of later states
  const bool* forgotten;  // [B] or null: rows whose latent no later state saw, so that grad_z counts as zero
  const T* grad_extra;    // [B, Z] or null: of the result itself
  const T* grad_full;     // [B, P] or null
  const T* grad_spread;   // [B] or null
  S* grad_params;         // [K, B, P]
  bool probs;             // `params` are class probabilities
};

// Gradients of the LayerNorm's weights, summed over rows in their order.
template <typename T, typename S>
struct NormGrad {
  const S* parts;  // [rows, 3D]
  const T* stats;  // [rows, 2]
  const T* grad;   // [rows, 3D]
  int64_t rows;
  int64_t width;  // 3D
  T* weight;      // [3D]
  T* bias;        // [3D]
};

// The policy's actions on B rows (moto_pl/ops/action.py).
template <typename T, typename S>
struct Act {
  Action kind;
  T min_std;
  PhiloxKey key;
  int64_t actions;  // A
  int64_t first;    // action a of row b draws number (first + b) A + a of the action stream
  T* raw;           // [B, 2A] the actor's result; forward writes it
  // Forward. The last layer's product, or, where null, what to compute it from.
  const S* product;  // [B, 2A] or null
  const S* hidden;   // [B, units]
  const S* weight;   // [2A, units]
  int64_t units;
  const T* bias;  // [2A]
  T* action;      // [B, A]
  T* entropy;     // [B]
  // Backward.
  const T* grad_action;   // [B, A] or null
  const T* grad_entropy;  // [B] or null
  T* grad_raw;            // [B, 2A]
};

}  // namespace moto
