#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <type_traits>

#include "cpu/cpu_kernels.h"

namespace moto::cpu {
namespace {

// Columns of one block: its running row stays in the first-level cache while the block walks over the steps.
constexpr int64_t kBlock = 512;
// Elements below which a thread of its own costs more than it saves.
constexpr int64_t kGrain = 32768;

// bfloat16 has 8 bits of mantissa: sums run in float and are rounded once, when stored.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls body(first, last) on blocks of columns. A column never crosses threads, so results do not depend on their number.
template <typename Body>
void for_blocks(const LambdaReturnShape& shape, const Body& body) {
  const int64_t blocks = (shape.batch + kBlock - 1) / kBlock;
  const int64_t work = std::max<int64_t>(1, kBlock * shape.steps);
  const int64_t grain = std::max<int64_t>(1, kGrain / work);
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      body(block * kBlock, std::min(shape.batch, (block + 1) * kBlock));
    }
  });
}

}  // namespace

template <typename T>
void lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape) {
  using A = Accumulator<T>;
  const A longer = static_cast<A>(shape.lambda), shorter = static_cast<A>(1 - shape.lambda);
  for_blocks(shape, [&](int64_t first, int64_t last) {
    A running[kBlock];
    const int64_t width = last - first;
    const T* bootstrap = value + shape.steps * shape.batch + first;
    for (int64_t b = 0; b < width; ++b) running[b] = bootstrap[b];
    for (int64_t i = shape.steps - 1; i >= 0; --i) {
      const int64_t row = i * shape.batch + first;
      const T *r = reward + row, *d = discount + row, *v = value + row + shape.batch;
      T* out = returns + row;
      for (int64_t b = 0; b < width; ++b) {
        running[b] = A(r[b]) + A(d[b]) * (shorter * A(v[b]) + longer * running[b]);
        out[b] = static_cast<T>(running[b]);
      }
    }
  });
}

template <typename T>
void lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward, T* grad_value,
                            T* grad_discount, const LambdaReturnShape& shape) {
  using A = Accumulator<T>;
  const A longer = static_cast<A>(shape.lambda), shorter = static_cast<A>(1 - shape.lambda);
  for_blocks(shape, [&](int64_t first, int64_t last) {
    A carried[kBlock];  // the gradient that reaches returns[i] through returns[i - 1]
    const int64_t width = last - first;
    std::fill_n(carried, width, A(0));
    std::fill_n(grad_value + first, width, T(0));  // the first state's value enters no return
    for (int64_t i = 0; i < shape.steps; ++i) {
      const int64_t row = i * shape.batch + first, next = row + shape.batch;
      // The last return bootstraps from value[H] alone, which is both its shorter and its longer target.
      const bool final_step = i + 1 == shape.steps;
      const T* target = final_step ? value + next : returns + next;
      const T *g = grad + row, *d = discount + row, *v = value + next;
      T *to_reward = grad_reward + row, *to_discount = grad_discount + row, *to_value = grad_value + next;
      for (int64_t b = 0; b < width; ++b) {
        const A total = A(g[b]) + carried[b];
        const A through = total * A(d[b]);
        carried[b] = longer * through;
        to_reward[b] = static_cast<T>(total);
        to_discount[b] = static_cast<T>(total * (shorter * A(v[b]) + longer * A(target[b])));
        to_value[b] = static_cast<T>(shorter * through + (final_step ? carried[b] : A(0)));
      }
    }
  });
}

#define MOTO_INSTANTIATE(T)                                                                   \
  template void lambda_return<T>(const T*, const T*, const T*, T*, const LambdaReturnShape&); \
  template void lambda_return_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*, const LambdaReturnShape&);
MOTO_INSTANTIATE(float)
MOTO_INSTANTIATE(double)
MOTO_INSTANTIATE(c10::BFloat16)
#undef MOTO_INSTANTIATE

}  // namespace moto::cpu
