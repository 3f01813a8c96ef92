#include "cpu/rollout_kernels.h"

namespace moto::cpu {

#define MOTO_DECLARE(isa)                         \
  namespace isa {                                 \
  extern const Kernels<float, float> single;      \
  extern const Kernels<float, Half> mixed;        \
  extern const Kernels<double, double> twofold;   \
  }
MOTO_DECLARE(generic)
#ifdef MOTO_X86
MOTO_DECLARE(avx2)
MOTO_DECLARE(avx512)
#endif
#undef MOTO_DECLARE

#ifdef MOTO_X86
namespace {
enum class Isa { generic, avx2, avx512 };

Isa widest() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return Isa::avx512;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::avx2 : Isa::generic;
}
}  // namespace
#define MOTO_CHOOSE(name)                                    \
  static const Isa isa = widest();                           \
  return isa == Isa::avx512 ? avx512::name : isa == Isa::avx2 ? avx2::name : generic::name
#else
#define MOTO_CHOOSE(name) return generic::name
#endif

template <>
const Kernels<float, float>& kernels() {
  MOTO_CHOOSE(single);
}
template <>
const Kernels<float, Half>& kernels() {
  MOTO_CHOOSE(mixed);
}
template <>
const Kernels<double, double>& kernels() {
  MOTO_CHOOSE(twofold);
}

}  // namespace moto::cpu
