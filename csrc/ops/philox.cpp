// moto::philox, random numbers as moto_pl/ops/philox.py defines them.
#include "kernels/philox.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu/cpu_device.h"
#include "ops/tensors.h"
#ifdef MOTO_WITH_CUDA
#include <c10/core/DeviceGuard.h>

#include "cuda/cuda_device.h"
#endif

namespace moto {
namespace {

Tensor philox_meta(const Tensor& like, int64_t seed, c10::SymInt offset, const OptionalTensor& words, int64_t stream,
                   c10::SymInt count) {
  TORCH_CHECK(like.scalar_type() == at::kLong || like.scalar_type() == at::kFloat || like.scalar_type() == at::kDouble,
              "moto::philox: like must be int64, float32 or float64, found ", like.scalar_type());
  return at::empty_symint({std::move(count)}, like.options());
}

// Random 32-bit words as int64, or uniform numbers in (0, 1).
Tensor philox_cpu(const Tensor& like, int64_t seed, c10::SymInt offset, const OptionalTensor& words, int64_t stream,
                  c10::SymInt count) {
  const PhiloxKey key = philox_key<cpu::Device<float, float>>(seed, offset.expect_int(), words);
  const Tensor out = philox_meta(like, seed, offset, words, stream, count);
  const int64_t size = out.numel();
  const auto name = static_cast<Stream>(static_cast<uint32_t>(stream));
  at::parallel_for(0, (size + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    const int64_t first = 4 * begin, numbers = std::min(4 * end, size) - first;
    if (out.scalar_type() == at::kFloat) return philox_fill(key, name, first, numbers, out.mutable_data_ptr<float>() + first);
    if (out.scalar_type() == at::kDouble) return philox_fill(key, name, first, numbers, out.mutable_data_ptr<double>() + first);
    int64_t* words = out.mutable_data_ptr<int64_t>() + first;
    for (int64_t i = 0; i < numbers; i += 4) {
      const PhiloxBlock block = philox_block(key, name, static_cast<uint64_t>(first + i) / 4);
      for (int64_t lane = 0; lane < std::min<int64_t>(4, numbers - i); ++lane) words[i + lane] = block.word[lane];
    }
  });
  return out;
}

#ifdef MOTO_WITH_CUDA
Tensor philox_cuda(const Tensor& like, int64_t seed, c10::SymInt offset, const OptionalTensor& words, int64_t stream,
                   c10::SymInt count) {
  const c10::OptionalDeviceGuard guard(like.device());
  const PhiloxKey key = philox_key<cuda::Device<float, float>>(seed, offset.expect_int(), words);
  const Tensor out = philox_meta(like, seed, offset, words, stream, count);
  const int64_t size = out.numel();
  const auto name = static_cast<Stream>(static_cast<uint32_t>(stream));
  const cudaStream_t on = c10::cuda::getCurrentCUDAStream().stream();
  if (out.scalar_type() == at::kFloat) {
    C10_CUDA_CHECK(cuda::philox(key, name, size, data<float>(out), on));
  } else if (out.scalar_type() == at::kDouble) {
    C10_CUDA_CHECK(cuda::philox(key, name, size, data<double>(out), on));
  } else {
    C10_CUDA_CHECK(cuda::philox(key, name, size, data<int64_t>(out), on));
  }
  return out;
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  library.def("philox(Tensor like, int seed, SymInt offset, Tensor? key, int stream, SymInt count) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(moto, CPU, library) { library.impl("philox", philox_cpu); }

#ifdef MOTO_WITH_CUDA
TORCH_LIBRARY_IMPL(moto, CUDA, library) { library.impl("philox", philox_cuda); }
#endif

TORCH_LIBRARY_IMPL(moto, Meta, library) { library.impl("philox", philox_meta); }

// It has no gradient.
TORCH_LIBRARY_IMPL(moto, Autograd, library) { library.impl("philox", torch::CppFunction::makeFallthrough()); }

}  // namespace moto
