// Runs the kernels on the CPU: ATen's thread pool shares a batch's rows.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/cpu_kernels.h"
#include "cpu/tables.h"
#include "kernels/philox.h"
#include "ops/tensors.h"

namespace moto::cpu {

// body(begin, end) on rows, where one row's work is about `cost` elements: a thread of its own needs 32768 of them.
template <typename Body>
void for_rows(int64_t rows, int64_t cost, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, cost)), body);
}

template <typename T, typename S>
class Device {
 public:
  using Full = T;
  using Storage = S;
  static constexpr bool kMultipliesInAct = false;  // the actor's last product is ATen's
  static constexpr bool kScans = false;
  static constexpr bool kReadsKeys = false;
  static constexpr bool kKeepsGradNorm = true;  // between the two passes of gru_backward, rather than compute it twice

  Device(const LatentShape& latent, int64_t members, int64_t batch, const Tensor& like)
      : stride_(sample_scratch(latent, members)),
        noise_(at::empty({batch, latent.stoch}, like.options())),
        scratch_(at::empty({at::get_num_threads() * stride_}, like.options())) {}

  // One member a row of member [H, B].
  void draw_members(const Tensor& member, PhiloxKey key, int64_t members, bool by_row) const {
    int64_t* index = data<int64_t>(member);
    const int64_t batch = member.size(1);
    for (int64_t i = 0; i < member.numel(); ++i)
      index[i] = philox_member(key, static_cast<uint64_t>(by_row ? key.row(i / batch, batch) + i % batch : i / batch), members);
  }

  void gather_layer(const GatherLayer<T, S>& x, int64_t rows) const {
    for_rows(rows, gather_cost(x), [&](int64_t b, int64_t e) { layers_.gather_layer(x, {b, e}); });
  }
  void bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows) const {
    for_rows(rows, units * 4, [&](int64_t b, int64_t e) { layers_.bias_elu(values, bias, units, batch, {b, e}); });
  }
  void elu_backward(S* grad, const S* values, int64_t units, int64_t rows) const {
    for_rows(rows, units * 2, [&](int64_t b, int64_t e) { layers_.elu_backward(grad, values, units, {b, e}); });
  }
  void input_backward(const InputGrad<T, S>& x, int64_t rows) const {
    for_rows(rows, (x.units + x.deter) * 2, [&](int64_t b, int64_t e) { layers_.input_backward(x, {b, e}); });
  }
  void gru(const Gru<T, S>& x, int64_t rows) const {
    for_rows(rows, x.deter * 32, [&](int64_t b, int64_t e) { gru_.gru(x, {b, e}); });
  }
  void gru_backward(const Gru<T, S>& x, int64_t rows) const {
    for_rows(rows, x.deter * 48, [&](int64_t b, int64_t e) { gru_.gru_backward(x, {b, e}); });
  }
  // Samples, and computes the layer on the sample if there is one.
  void sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer) const {
    for_rows(x.batch, sample_cost(x) + (layer ? gather_cost(*layer) : 0), [&](int64_t b, int64_t e) {
      latent_.sample(x, workspace(x, b, e, true), {b, e});
      if (layer) layers_.gather_layer(*layer, {b, e});
    });
  }
  void sample_backward(const Sample<T, S>& x) const {
    const bool draws = x.latent.kind == Latent::gaussian;
    for_rows(x.batch, sample_cost(x), [&](int64_t b, int64_t e) { latent_.sample_backward(x, workspace(x, b, e, draws), {b, e}); });
  }
  // Acts, and computes the layer on the actions if there is one.
  void act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows) const {
    for_rows(rows, x.actions * 256 + (layer ? gather_cost(*layer) : 0), [&](int64_t b, int64_t e) {
      cpu::act(x, b, e);
      if (layer) layers_.gather_layer(*layer, {b, e});
    });
  }
  void act_backward(const Act<T, S>& x, int64_t rows) const {
    for_rows(rows, x.actions * 256, [&](int64_t b, int64_t e) { cpu::act_backward(x, b, e); });
  }
  // The gradient of a weight, from that of its layer's results and its operand: out [out, in] = grad [rows, out]^T operand [rows,
  // in]. It sums over all rows, which a library may share among its threads. Here each computes tiles, the same ones however many
  // there are.
  void weight_product(const Tensor& out, const Tensor& grad, const Tensor& operand) const {
    if (std::is_same_v<S, BFloat16>) return product(out, grad.t(), operand);  // oneDNN
    const int64_t dim = out.size(0) >= out.size(1) ? 0 : 1, width = out.size(dim);
    const int64_t count = std::clamp<int64_t>(width / 128, std::min<int64_t>(4, (width + 31) / 32), 64),
                  tile = (width + count - 1) / count;
    // Two at least: within a parallel region, products are serial.
    at::parallel_for(0, std::max<int64_t>(2, count), 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView below;  // the calling thread's guard, which others do not have
      for (int64_t first = begin * tile; first < std::min(end * tile, width); first += tile) {
        const int64_t size = std::min(tile, width - first);
        const Tensor left = dim == 0 ? grad.narrow(1, first, size) : grad,
                     right = dim == 1 ? operand.narrow(1, first, size) : operand;
        product(out.narrow(dim, first, size), left.t(), right);
      }
    });
  }
  void norm_grad(const NormGrad<T, S>& x) const {
    for_rows(x.width, x.rows * 4, [&](int64_t b, int64_t e) { gru_.norm_grad(x, {b, e}); });
  }
  // Column sums whose bits do not depend on the number of threads: at::sum may split rows among them.
  void column_sums(const Tensor& values, const Tensor& out) const {
    for_rows(values.size(1), values.size(0), [&](int64_t b, int64_t e) {
      layers_.column_sums(data<S>(values), values.size(0), values.stride(0), data<T>(out), {b, e});
    });
  }

 private:
  static int64_t gather_cost(const GatherLayer<T, S>& x) { return x.units * (x.actions + (x.index ? x.stoch : 4)); }
  static int64_t sample_cost(const Sample<T, S>& x) { return x.members * x.latent.params() * 4; }

  Workspace<T> workspace(const Sample<T, S>& x, int64_t begin, int64_t end, bool draws) const {
    const int64_t stoch = x.latent.stoch;
    if (draws) latent_noise(x.latent.kind, x.key, x.first + begin * stoch, (end - begin) * stoch, data<T>(noise_) + begin * stoch);
    return {data<T>(noise_), data<T>(scratch_) + at::get_thread_num() * stride_};
  }

  const LayerKernels<T, S>& layers_ = table<LayerKernels<T, S>>();
  const GruKernels<T, S>& gru_ = table<GruKernels<T, S>>();
  const LatentKernels<T, S>& latent_ = table<LatentKernels<T, S>>();
  int64_t stride_;
  Tensor noise_, scratch_;
};

}  // namespace moto::cpu
