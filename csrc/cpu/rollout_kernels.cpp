#include "cpu/rollout_kernels.h"

#include "cpu/isa.h"

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
