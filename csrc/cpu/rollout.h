// Helpers of the CPU drivers of imagine and observe: storage types, products by ATen, and row-parallel loops.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>

#include "cpu/action.h"
#include "cpu/rollout_kernels.h"

namespace moto::cpu {

using at::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  return tensor.numel() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

template <typename S>
constexpr at::ScalarType kStorage = std::is_same_v<S, Half>    ? at::kBFloat16
                                    : std::is_same_v<S, double> ? at::kDouble
                                                                : at::kFloat;

// Asks for huge pages where a new tensor's memory is large: a page fault for each 4 KiB takes a tenth of a rollout's time.
inline void prefer_huge_pages(const Tensor& tensor) {
#ifdef __linux__
  constexpr uintptr_t kHuge = 2u << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) + kHuge - 1) / kHuge * kHuge;
  const auto end = (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) + tensor.nbytes()) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a refusal changes nothing
#endif
}

// body(begin, end) on rows, where one row's work is about `cost` elements: a thread of its own needs 32768 of them.
template <typename Body>
void for_rows(int64_t rows, int64_t cost, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, cost)), body);
}

// out = a b, or out += a b.
inline void product(const Tensor& out, const Tensor& a, const Tensor& b, bool add = false) {
  Tensor target = out;
  if (add) {
    at::addmm_out(target, target, a, b);
  } else {
    at::mm_out(target, a, b);
  }
}

inline void batched_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  Tensor target = out;
  at::bmm_out(target, a, b);
}

// sum += a b for a sum in full precision and operands that may be bfloat16.
inline void add_product(const Tensor& sum, const Tensor& a, const Tensor& b) {
  if (sum.scalar_type() == a.scalar_type()) {
    product(sum, a, b, true);
  } else {
    Tensor(sum).add_(at::mm(a, b));
  }
}

// Column sums whose bits do not depend on the number of threads: at::sum may split rows among them.
template <typename T, typename S>
Tensor column_sums(const Tensor& values, at::ScalarType dtype) {
  Tensor out = at::empty({values.size(1)}, values.options().dtype(dtype));
  for_rows(values.size(1), values.size(0), [&](int64_t begin, int64_t end) {
    kernels<T, S>().column_sums(data<S>(values), values.size(0), values.stride(0), data<T>(out), {begin, end});
  });
  return out;
}

// The sample kernel with a scratch of each thread's own.
template <typename T, typename S, typename Kernel>
void run_sample(const Sample<T, S>& x, const Tensor& scratch, Kernel kernel) {
  const int64_t stride = sample_scratch(x.latent, x.members);
  for_rows(x.batch, x.members * x.latent.params() * 4, [&](int64_t begin, int64_t end) {
    Sample<T, S> own = x;
    own.scratch = data<T>(scratch) + at::get_thread_num() * stride;
    kernel(own, Rows{begin, end});
  });
}

template <typename T>
Tensor make_scratch(const LatentShape& latent, int64_t members, const Tensor& like) {
  return at::empty({at::get_num_threads() * sample_scratch(latent, members)}, like.options());
}

}  // namespace moto::cpu
