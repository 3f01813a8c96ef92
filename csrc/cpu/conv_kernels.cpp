#include "cpu/conv_kernels.h"

#include "cpu/isa.h"

namespace moto::cpu {

#define MOTO_DECLARE(isa)                           \
  namespace isa {                                   \
  extern const ConvKernels<float> conv_single;      \
  extern const ConvKernels<double> conv_twofold;    \
  }
MOTO_DECLARE(generic)
#ifdef MOTO_X86
MOTO_DECLARE(avx2)
MOTO_DECLARE(avx512)
#endif
#undef MOTO_DECLARE

template <>
const ConvKernels<float>& conv_kernels() {
  MOTO_CHOOSE(conv_single);
}
template <>
const ConvKernels<double>& conv_kernels() {
  MOTO_CHOOSE(conv_twofold);
}

}  // namespace moto::cpu
