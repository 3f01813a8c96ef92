// Memory that rollouts keep for backward.
#pragma once

#include <ATen/ATen.h>

namespace moto::cpu {

// An uninitialised tensor. Where it is large its memory comes from, and goes back to, blocks that earlier ones left: the system takes
// such blocks back when they are freed and clears each page that it gives out anew, which costs up to a tenth of a rollout. What is
// kept so is at most what the last few steps used at once.
at::Tensor empty_again(at::IntArrayRef sizes, const at::TensorOptions& options);

}  // namespace moto::cpu
