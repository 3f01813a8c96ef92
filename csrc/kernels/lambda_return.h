// Parameters of the lambda-return, shared by the CPU and CUDA kernels. No torch headers here: cuda/*.cu must compile without torch.
#pragma once

#include <cstdint>

namespace moto {

// Row-major [steps, batch] arrays; `value` has one row more.
struct LambdaReturnShape {
  int64_t steps;  // H
  int64_t batch;  // B
  double lambda;  // weight of the longer return, in [0, 1]
};

}  // namespace moto
