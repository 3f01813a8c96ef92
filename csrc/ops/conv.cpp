// moto::conv and moto::conv_transpose, of stride 2, and their backwards. There are kernels for the CPU alone; a GPU has its own
// library's.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/tables.h"
#include "ops/maps.h"

namespace moto {
namespace {

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// What a chunk of frames takes should stay in a core's second-level cache, beside the weights.
constexpr int64_t kChunkBytes = 512 * 1024;
// Multiplications below which a thread of its own costs more than it saves.
constexpr int64_t kGrain = 1 << 18;

// Symbolic sizes: the same checks serve real and fake tensors.
void check_layer(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t inputs, int64_t outputs,
                 int64_t activation) {
  TORCH_CHECK(x.dim() == 4, op, ": x must be [frames, channels, rows, columns], found shape ", x.sym_sizes());
  TORCH_CHECK(weight.dim() == 4 && weight.sym_size(2) == weight.sym_size(3), op, ": weight must have a square kernel, found shape ",
              weight.sym_sizes());
  const auto dtype = weight.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble, op, ": weight must be float32 or float64, found ", dtype);
  TORCH_CHECK(x.sym_size(1) == weight.sym_size(inputs), op, ": x must have ", weight.sym_size(inputs), " channels, found ",
              x.sym_sizes());
  TORCH_CHECK(bias.dim() == 1 && bias.sym_size(0) == weight.sym_size(outputs), op, ": bias must have shape [",
              weight.sym_size(outputs), "], found ", bias.sym_sizes());
  TORCH_CHECK(bias.scalar_type() == dtype, op, ": bias must have weight's dtype ", dtype, ", found ", bias.scalar_type());
  TORCH_CHECK(x.device() == weight.device() && bias.device() == weight.device(), op, ": x, weight and bias must be on one device");
  TORCH_CHECK(activation >= 0 && activation <= 2, op, ": activation must be 0 (none), 1 (ELU) or 2 (ReLU), found ", activation);
}

void check_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t activation) {
  constexpr const char* op = "moto::conv";
  check_layer(op, x, weight, bias, 1, 0, activation);
  TORCH_CHECK(x.scalar_type() == at::kByte || x.scalar_type() == weight.scalar_type(), op,
              ": x must be uint8 or have weight's dtype, found ", x.scalar_type());
  TORCH_CHECK(x.sym_size(2) >= weight.sym_size(2) && x.sym_size(3) >= weight.sym_size(2), op, ": the kernel is larger than x, ",
              x.sym_sizes());
}

void check_transpose(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t activation) {
  constexpr const char* op = "moto::conv_transpose";
  check_layer(op, x, weight, bias, 0, 1, activation);
  TORCH_CHECK(x.scalar_type() == weight.scalar_type(), op, ": x must have weight's dtype, found ", x.scalar_type());
}

Tensor conv_meta(const Tensor& x, const Tensor& weight, const Tensor& bias, double offset, int64_t activation) {
  check_conv(x, weight, bias, activation);
  const auto kernel = weight.sym_size(2);
  return empty_maps(x.sym_size(0), weight.sym_size(0), (x.sym_size(2) - kernel) / 2 + 1, (x.sym_size(3) - kernel) / 2 + 1, weight);
}

Tensor transpose_meta(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t activation) {
  check_transpose(x, weight, bias, activation);
  const auto kernel = weight.sym_size(2);
  return empty_maps(x.sym_size(0), weight.sym_size(1), (x.sym_size(2) - 1) * 2 + kernel, (x.sym_size(3) - 1) * 2 + kernel, weight);
}

Gradients empty_gradients(const Tensor& x, const Tensor& weight, int64_t outputs, bool needs_input) {
  Tensor input = needs_input ? empty_maps(x.sym_size(0), x.sym_size(1), x.sym_size(2), x.sym_size(3), weight)
                             : at::empty({0}, weight.options());
  Tensor kernel = empty_maps(weight.sym_size(0), weight.sym_size(1), weight.sym_size(2), weight.sym_size(3), weight);
  return {input, kernel, at::empty_symint({weight.sym_size(outputs)}, weight.options())};
}

Gradients conv_backward_meta(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result, double offset,
                             int64_t activation, bool needs_input) {
  return empty_gradients(x, weight, 0, needs_input);
}

Gradients transpose_backward_meta(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result,
                                  int64_t activation, bool needs_input) {
  return empty_gradients(x, weight, 1, needs_input);
}

ConvShape conv_shape(const Tensor& big, const Tensor& small, const Tensor& weight) {
  return {big.size(2), big.size(3), big.size(1), small.size(2), small.size(3), small.size(1), weight.size(2)};
}

// Big maps as numbers: those of a tensor with the channels last, or made of pixels, a chunk at a time.
template <typename T>
class BigMaps {
 public:
  BigMaps(const Tensor& maps, const ConvShape& shape, double offset)
      : maps_(maps.scalar_type() == at::kByte ? maps : last(maps)), shape_(shape), offset_(static_cast<T>(offset)) {}

  bool converts() const { return maps_.scalar_type() == at::kByte; }
  // The frames from `first` on, `count` of them, for which `scratch` has room.
  const T* read(int64_t first, int64_t count, T* scratch) const {
    if (!converts()) return maps_.template const_data_ptr<T>() + first * shape_.big_size();
    cpu::table<cpu::PixelKernels<T>>().read_pixels(pixels_of(maps_, first), shape_, count, offset_, scratch);
    return scratch;
  }

 private:
  Tensor maps_;
  ConvShape shape_;
  T offset_;
};

// Small maps with their channels filled up: a tensor's own memory where nothing is to fill.
template <typename T>
class SmallMaps {
 public:
  SmallMaps(const Tensor& maps, const ConvShape& shape)
      : maps_(last(maps)), shape_(shape), channels_(cpu::table<cpu::ConvKernels<T>>().filled_channels(shape)) {}

  bool converts() const { return channels_ != shape_.small_channels; }
  int64_t size() const { return shape_.small_rows * shape_.small_cols * channels_; }
  const T* read(int64_t first, int64_t count, T* scratch) const {
    const T* maps = maps_.template const_data_ptr<T>() + first * shape_.small_size();
    if (!converts()) return maps;
    cpu::table<cpu::ConvKernels<T>>().fill_up(shape_, count, maps, maps, Activation::none, scratch);
    return scratch;
  }

 private:
  Tensor maps_;
  ConvShape shape_;
  int64_t channels_;
};

template <typename T>
int64_t chunk_of(const ConvShape& s) {
  return std::max<int64_t>(1, kChunkBytes / static_cast<int64_t>((s.big_size() + s.small_size()) * sizeof(T)));
}

int64_t grain_of(const ConvShape& s) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.small_rows * s.small_cols * s.weights()));
}

// body(first, count) on chunks of frames, shared among threads.
template <typename Body>
void for_chunks(int64_t frames, int64_t chunk, int64_t grain, const Body& body) {
  at::parallel_for(0, frames, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += chunk) body(first, std::min(chunk, end - first));
  });
}

template <typename T>
void run_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, double offset, Activation activation, const Tensor& out) {
  const auto& kernels = cpu::table<cpu::ConvKernels<T>>();
  const ConvShape shape = conv_shape(x, out, weight);
  const Scratch<T> packed(kernels.gather_size(shape));
  kernels.pack_gather(shape, last(weight).const_data_ptr<T>(), packed.data());
  const BigMaps<T> maps(x, shape, offset);
  const Tensor offsets = bias.contiguous();
  const int64_t chunk = std::min(chunk_of<T>(shape), std::max<int64_t>(1, x.size(0)));
  for_chunks(x.size(0), chunk, grain_of(shape), [&](int64_t first, int64_t count) {
    const Scratch<T> scratch(maps.converts() ? chunk * shape.big_size() : 0);
    kernels.gather(shape, count, maps.read(first, count, scratch.data()), packed.data(), offsets.const_data_ptr<T>(), activation,
                   out.mutable_data_ptr<T>() + first * shape.small_size());
  });
}

template <typename T>
void run_transpose(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation, const Tensor& out) {
  const auto& kernels = cpu::table<cpu::ConvKernels<T>>();
  const ConvShape shape = conv_shape(out, x, weight);
  const Scratch<T> packed(kernels.scatter_size(shape));
  kernels.pack_scatter(shape, last(weight).const_data_ptr<T>(), packed.data());
  const Tensor offsets = bias.contiguous();
  const SmallMaps<T> maps(x, shape);
  const int64_t chunk = std::min(chunk_of<T>(shape), std::max<int64_t>(1, x.size(0)));
  for_chunks(x.size(0), chunk, grain_of(shape), [&](int64_t first, int64_t count) {
    const Scratch<T> scratch(maps.converts() ? chunk * maps.size() : 0);
    kernels.scatter(shape, count, maps.read(first, count, scratch.data()), packed.data(), offsets.const_data_ptr<T>(), activation,
                    out.mutable_data_ptr<T>() + first * shape.big_size());
  });
}

// Both layers' backward: for each chunk, first what each frame has of its own, then the weights' gradient, whose blocks the threads
// share. `prepare` (first, count, at) makes the frames from `first` on, the chunk's number `at`; `maps` (first) finds the chunk's
// big and small maps, and `biases` (first, count) adds to the bias's gradient.
template <typename T, typename Prepare, typename Maps, typename Biases>
void run_chunks(const ConvShape& shape, int64_t frames, int64_t chunk, const Tensor& weight_grad, const Prepare& prepare,
                const Maps& maps, const Biases& biases) {
  const auto& kernels = cpu::table<cpu::ConvKernels<T>>();
  const int64_t size = kernels.outer_size(shape), blocks = kernels.outer_blocks(shape);
  const Scratch<T> sums(size);
  std::fill_n(sums.data(), size, T(0));
  for (int64_t first = 0; first < frames; first += chunk) {
    const int64_t count = std::min(chunk, frames - first);
    at::parallel_for(0, count, grain_of(shape), [&](int64_t begin, int64_t end) { prepare(first + begin, end - begin, begin); });
    at::parallel_for(0, blocks + 1, 1 + kGrain * blocks / (count * shape.small_rows * shape.small_cols * shape.weights()),
                     [&](int64_t begin, int64_t end) {
                       const auto [big, small] = maps(first);
                       kernels.outer(shape, count, big, small, sums.data(), begin, std::min(end, blocks));
                       if (end > blocks) biases(first, count);
                     });
  }
  kernels.unpack_outer(shape, sums.data(), weight_grad.mutable_data_ptr<T>());
}

template <typename T>
int64_t backward_chunk(const ConvShape& shape, int64_t frames) {
  return std::min(chunk_of<T>(shape) * at::get_num_threads(), std::max<int64_t>(1, frames));
}

template <typename T>
void run_conv_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result, double offset,
                       Activation activation, const Gradients& out) {
  const auto& [to_x, to_weight, to_bias] = out;
  const auto& kernels = cpu::table<cpu::ConvKernels<T>>();
  const ConvShape shape = conv_shape(x, grad, weight);
  const int64_t frames = x.size(0), chunk = backward_chunk<T>(shape, frames), channels = kernels.filled_channels(shape);
  const int64_t pixels = shape.small_rows * shape.small_cols;
  const bool needs_input = to_x.dim() == 4;
  const Scratch<T> packed(needs_input ? kernels.scatter_size(shape) : 0), slopes(chunk * pixels * channels);
  if (needs_input) kernels.pack_scatter(shape, last(weight).const_data_ptr<T>(), packed.data());
  const BigMaps<T> maps(x, shape, offset);
  const Scratch<T> scratch(maps.converts() ? chunk * shape.big_size() : 0);
  const Tensor grads = last(grad), results = last(result);
  std::vector<T> bias(channels, T(0));
  const auto prepare = [&](int64_t first, int64_t count, int64_t at) {
    T* own = slopes.data() + at * pixels * channels;
    kernels.fill_up(shape, count, grads.const_data_ptr<T>() + first * shape.small_size(),
                    results.const_data_ptr<T>() + first * shape.small_size(), activation, own);
    if (maps.converts()) maps.read(first, count, scratch.data() + at * shape.big_size());
    if (needs_input) {
      kernels.scatter(shape, count, own, packed.data(), nullptr, Activation::none,
                      to_x.mutable_data_ptr<T>() + first * shape.big_size());
    }
  };
  const auto chunk_maps = [&](int64_t first) -> std::pair<const T*, const T*> {
    return {maps.converts() ? scratch.data() : maps.read(first, 0, nullptr), slopes.data()};
  };
  const auto biases = [&](int64_t first, int64_t count) {
    kernels.channel_sums(slopes.data(), count * pixels, channels, bias.data());
  };
  run_chunks<T>(shape, frames, chunk, to_weight, prepare, chunk_maps, biases);
  std::copy_n(bias.data(), shape.small_channels, to_bias.mutable_data_ptr<T>());
}

template <typename T>
void run_transpose_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result, Activation activation,
                            const Gradients& out) {
  const auto& [to_x, to_weight, to_bias] = out;
  const auto& kernels = cpu::table<cpu::ConvKernels<T>>();
  const ConvShape shape = conv_shape(grad, x, weight);
  const int64_t frames = x.size(0), chunk = backward_chunk<T>(shape, frames), width = shape.big_cols * shape.big_channels;
  const bool needs_input = to_x.dim() == 4, activates = activation != Activation::none;
  const SmallMaps<T> maps(x, shape);
  const Scratch<T> packed(needs_input ? kernels.gather_size(shape) : 0), slopes(activates ? chunk * shape.big_size() : 0);
  const Scratch<T> scratch(maps.converts() ? chunk * maps.size() : 0);
  if (needs_input) kernels.pack_gather(shape, last(weight).const_data_ptr<T>(), packed.data());
  const Tensor grads = last(grad), results = last(result);
  std::vector<T> bias(width, T(0));  // of each column: long rows are added faster
  const auto prepare = [&](int64_t first, int64_t count, int64_t at) {
    const T* own = grads.const_data_ptr<T>() + first * shape.big_size();
    if (activates) {
      T* own_slopes = slopes.data() + at * shape.big_size();
      kernels.slope(own, results.const_data_ptr<T>() + first * shape.big_size(), activation, count * shape.big_size(), own_slopes);
      own = own_slopes;
    }
    if (maps.converts()) maps.read(first, count, scratch.data() + at * maps.size());
    if (needs_input) {
      kernels.gather(shape, count, own, packed.data(), nullptr, Activation::none,
                     to_x.mutable_data_ptr<T>() + first * shape.small_size());
    }
  };
  const auto chunk_maps = [&](int64_t first) -> std::pair<const T*, const T*> {
    return {activates ? slopes.data() : grads.const_data_ptr<T>() + first * shape.big_size(),
            maps.converts() ? scratch.data() : maps.read(first, 0, nullptr)};
  };
  const auto biases = [&](int64_t first, int64_t count) {
    kernels.channel_sums(chunk_maps(first).first, count * shape.big_rows, width, bias.data());
  };
  run_chunks<T>(shape, frames, chunk, to_weight, prepare, chunk_maps, biases);
  T* sums = to_bias.mutable_data_ptr<T>();
  std::fill_n(sums, shape.big_channels, T(0));
  for (int64_t n = 0; n < width; ++n) sums[n % shape.big_channels] += bias[n];
}

Tensor conv_cpu(const Tensor& x, const Tensor& weight, const Tensor& bias, double offset, int64_t activation) {
  const Tensor out = conv_meta(x, weight, bias, offset, activation);
  with_type(weight,
            [&](auto zero) { run_conv<decltype(zero)>(x, weight, bias, offset, static_cast<Activation>(activation), out); });
  return out;
}

Gradients conv_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result, double offset,
                            int64_t activation, bool needs_input) {
  const Gradients out = empty_gradients(x, weight, 0, needs_input);
  with_type(weight, [&](auto zero) {
    run_conv_backward<decltype(zero)>(grad, x, weight, result, offset, static_cast<Activation>(activation), out);
  });
  return out;
}

Tensor transpose_cpu(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t activation) {
  const Tensor out = transpose_meta(x, weight, bias, activation);
  with_type(weight, [&](auto zero) { run_transpose<decltype(zero)>(x, weight, bias, static_cast<Activation>(activation), out); });
  return out;
}

Gradients transpose_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& result,
                                 int64_t activation, bool needs_input) {
  const Gradients out = empty_gradients(x, weight, 1, needs_input);
  with_type(weight, [&](auto zero) {
    run_transpose_backward<decltype(zero)>(grad, x, weight, result, static_cast<Activation>(activation), out);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  library.def("conv(Tensor x, Tensor weight, Tensor bias, float offset, int activation) -> Tensor", tags);
  library.def(
      "conv_backward(Tensor grad, Tensor x, Tensor weight, Tensor result, float offset, int activation, bool needs_input)"
      " -> (Tensor x, Tensor weight, Tensor bias)",
      tags);
  library.def("conv_transpose(Tensor x, Tensor weight, Tensor bias, int activation) -> Tensor", tags);
  library.def(
      "conv_transpose_backward(Tensor grad, Tensor x, Tensor weight, Tensor result, int activation, bool needs_input)"
      " -> (Tensor x, Tensor weight, Tensor bias)",
      tags);
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("conv", conv_cpu);
  library.impl("conv_backward", conv_backward_cpu);
  library.impl("conv_transpose", transpose_cpu);
  library.impl("conv_transpose_backward", transpose_backward_cpu);
}

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("conv", conv_meta);
  library.impl("conv_backward", conv_backward_meta);
  library.impl("conv_transpose", transpose_meta);
  library.impl("conv_transpose_backward", transpose_backward_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  // A second derivative raises instead of being silently wrong.
  library.impl("conv_backward", torch::autograd::autogradNotImplementedFallback());
  library.impl("conv_transpose_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
