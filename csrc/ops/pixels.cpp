// moto::squared_error, of images, and moto::shift, frames moved by whole pixels. For the CPU alone.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/tables.h"
#include "ops/maps.h"

namespace moto {
namespace {

void check_error(const Tensor& values, const Tensor& image) {
  constexpr const char* op = "moto::squared_error";
  TORCH_CHECK(values.dim() == 4, op, ": values must be [frames, channels, rows, columns], found shape ", values.sym_sizes());
  TORCH_CHECK(values.scalar_type() == at::kFloat || values.scalar_type() == at::kDouble, op,
              ": values must be float32 or float64, found ", values.scalar_type());
  TORCH_CHECK(image.scalar_type() == at::kByte, op, ": image must be uint8, found ", image.scalar_type());
  TORCH_CHECK(image.sym_sizes() == values.sym_sizes(), op, ": image must have shape ", values.sym_sizes(), ", found ",
              image.sym_sizes());
  TORCH_CHECK(image.device() == values.device(), op, ": image must be on values' device");
}

Tensor error_meta(const Tensor& values, const Tensor& image) {
  check_error(values, image);
  return at::empty_symint({values.sym_size(0)}, values.options());
}

Tensor error_backward_meta(const Tensor& grad, const Tensor& values, const Tensor& image) {
  return empty_maps(values.sym_size(0), values.sym_size(1), values.sym_size(2), values.sym_size(3), values);
}

Tensor error_cpu(const Tensor& values, const Tensor& image) {
  const Tensor out = error_meta(values, image), maps = last(values);
  const int64_t channels = maps.size(1), rows = maps.size(2), cols = maps.size(3), size = channels * rows * cols;
  with_type(values, [&](auto zero) {
    using T = decltype(zero);
    at::parallel_for(0, maps.size(0), std::max<int64_t>(1, 32768 / std::max<int64_t>(1, size)), [&](int64_t begin, int64_t end) {
      const Scratch<T> row(cols * channels);
      for (int64_t f = begin; f < end; ++f) {
        out.mutable_data_ptr<T>()[f] = cpu::table<cpu::PixelKernels<T>>().squared_error(
            maps.const_data_ptr<T>() + f * size, pixels_of(image, f), rows, cols, channels, row.data());
      }
    });
  });
  return out;
}

Tensor error_backward_cpu(const Tensor& grad, const Tensor& values, const Tensor& image) {
  const Tensor out = error_backward_meta(grad, values, image), maps = last(values), scales = grad.contiguous();
  const int64_t channels = maps.size(1), rows = maps.size(2), cols = maps.size(3), size = channels * rows * cols;
  with_type(values, [&](auto zero) {
    using T = decltype(zero);
    at::parallel_for(0, maps.size(0), std::max<int64_t>(1, 32768 / std::max<int64_t>(1, size)), [&](int64_t begin, int64_t end) {
      for (int64_t f = begin; f < end; ++f) {
        cpu::table<cpu::PixelKernels<T>>().error(maps.const_data_ptr<T>() + f * size, pixels_of(image, f), rows, cols, channels,
                                                 scales.const_data_ptr<T>()[f], out.mutable_data_ptr<T>() + f * size);
      }
    });
  });
  return out;
}

Tensor shift_meta(const Tensor& image, const Tensor& offset) {
  TORCH_CHECK(image.dim() == 4 && image.scalar_type() == at::kByte,
              "moto::shift: image must be uint8 [frames, channels, rows, columns]", ", found ", image.scalar_type(), " ",
              image.sym_sizes());
  TORCH_CHECK(
      offset.dim() == 2 && offset.sym_size(0) == image.sym_size(0) && offset.sym_size(1) == 2 && offset.scalar_type() == at::kLong,
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
      const int64_t before = std::clamp<int64_t>(-right, 0, cols),
                    copied = std::max<int64_t>(0, std::min(cols, cols - right) - before);
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
  library.def("squared_error(Tensor values, Tensor image) -> Tensor", tags);
  library.def("squared_error_backward(Tensor grad, Tensor values, Tensor image) -> Tensor", tags);
  library.def("shift(Tensor image, Tensor offset) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("squared_error", error_cpu);
  library.impl("squared_error_backward", error_backward_cpu);
  library.impl("shift", shift_cpu);
}

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("squared_error", error_meta);
  library.impl("squared_error_backward", error_backward_meta);
  library.impl("shift", shift_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  // A second derivative raises instead of being silently wrong.
  library.impl("squared_error_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("shift", torch::CppFunction::makeFallthrough());  // it has no gradient
}

}  // namespace moto
