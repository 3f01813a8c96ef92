// moto::philox, random numbers as moto_pl/ops/philox.py defines them, and moto::shift, frames moved by whole pixels. For the CPU alone.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "moto/philox.h"
#include "rollout.h"

namespace moto {
namespace {

Tensor philox_meta(const Tensor& like, int64_t seed, c10::SymInt offset, int64_t stream, c10::SymInt count) {
  TORCH_CHECK(like.scalar_type() == at::kLong || like.scalar_type() == at::kFloat || like.scalar_type() == at::kDouble,
              "moto::philox: like must be int64, float32 or float64, found ", like.scalar_type());
  return at::empty_symint({std::move(count)}, like.options());
}

// Random 32-bit words as int64, or uniform numbers in (0, 1).
Tensor philox_cpu(const Tensor& like, int64_t seed, c10::SymInt offset, int64_t stream, c10::SymInt count) {
  const PhiloxKey key = philox_key(seed, offset.expect_int());
  const Tensor out = philox_meta(like, seed, offset, stream, count);
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

Tensor shift_meta(const Tensor& image, const Tensor& offset) {
  TORCH_CHECK(image.dim() == 4 && image.scalar_type() == at::kByte, "moto::shift: image must be uint8 [frames, channels, rows, columns]",
              ", found ", image.scalar_type(), " ", image.sym_sizes());
  TORCH_CHECK(offset.dim() == 2 && offset.sym_size(0) == image.sym_size(0) && offset.sym_size(1) == 2 && offset.scalar_type() == at::kLong,
              "moto::shift: offset must be int64 [frames, 2], found ", offset.scalar_type(), " ", offset.sym_sizes());
  TORCH_CHECK(image.device() == offset.device(), "moto::shift: offset must be on image's device");
  return at::empty_symint(image.sym_sizes(), image.options());
}

Tensor shift_cpu(const Tensor& image, const Tensor& offset) {
  const Tensor out = shift_meta(image, offset), by = offset.contiguous();
  const Tensor frames = image.stride(3) == 1 ? image : image.contiguous();
  const int64_t channels = frames.size(1), rows = frames.size(2), cols = frames.size(3);
  if (!out.numel()) return out;
  at::parallel_for(0, frames.size(0), std::max<int64_t>(1, 32768 / (channels * rows * cols)), [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      const int64_t down = by.const_data_ptr<int64_t>()[2 * f], right = by.const_data_ptr<int64_t>()[2 * f + 1];
      // Columns that repeat the left edge, those that are copied, and the rest, which repeat the right edge.
      const int64_t before = std::clamp<int64_t>(-right, 0, cols), copied = std::max<int64_t>(0, std::min(cols, cols - right) - before);
      for (int64_t c = 0; c < channels; ++c) {
        const uint8_t* from = frames.const_data_ptr<uint8_t>() + f * frames.stride(0) + c * frames.stride(1);
        uint8_t* to = out.mutable_data_ptr<uint8_t>() + (f * channels + c) * rows * cols;
        for (int64_t y = 0; y < rows; ++y, to += cols) {
          const uint8_t* row = from + std::clamp<int64_t>(y + down, 0, rows - 1) * frames.stride(2);
          std::memset(to, row[0], before);
          std::memcpy(to + before, row + std::max<int64_t>(0, right), copied);
          std::memset(to + before + copied, row[cols - 1], cols - before - copied);
        }
      }
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  library.def("philox(Tensor like, int seed, SymInt offset, int stream, SymInt count) -> Tensor", tags);
  library.def("shift(Tensor image, Tensor offset) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("philox", philox_cpu);
  library.impl("shift", shift_cpu);
}

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("philox", philox_meta);
  library.impl("shift", shift_meta);
}

// Neither has a gradient.
TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  library.impl("philox", torch::CppFunction::makeFallthrough());
  library.impl("shift", torch::CppFunction::makeFallthrough());
}

}  // namespace moto
