// Which of a table's builds to take: that for the widest vectors that this processor has. MOTO_ISA=avx2 or generic in the
// environment takes a narrower one, for tests.
#include "cpu/tables.h"

#include <cstdlib>
#include <string_view>

namespace moto::cpu {

#ifdef MOTO_X86
namespace {

enum class Isa { generic, avx2, avx512 };

Isa widest() {
  __builtin_cpu_init();
  const char* const set = std::getenv("MOTO_ISA");
  const std::string_view most = set ? set : "avx512";
  if (most == "generic") return Isa::generic;
  if (most != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    return Isa::avx512;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::avx2 : Isa::generic;
}

}  // namespace

#define MOTO_BUILDS(...) \
  namespace generic {    \
  __VA_ARGS__;           \
  }                      \
  namespace avx2 {       \
  __VA_ARGS__;           \
  }                      \
  namespace avx512 {     \
  __VA_ARGS__;           \
  }
#define MOTO_CHOOSE(name) isa == Isa::avx512 ? avx512::name : isa == Isa::avx2 ? avx2::name : generic::name
#else
enum class Isa { generic };
#define MOTO_BUILDS(...) \
  namespace generic {    \
  __VA_ARGS__;           \
  }
#define MOTO_CHOOSE(name) generic::name
constexpr Isa widest() { return Isa::generic; }
#endif

#define MOTO_TABLE(name, ...)                         \
  MOTO_BUILDS(extern const __VA_ARGS__ name)          \
  template <>                                         \
  const __VA_ARGS__& table() {                        \
    [[maybe_unused]] static const Isa isa = widest(); \
    return MOTO_CHOOSE(name);                         \
  }

MOTO_TABLE(layers_float, LayerKernels<float, float>)
MOTO_TABLE(layers_bfloat16, LayerKernels<float, BFloat16>)
MOTO_TABLE(layers_double, LayerKernels<double, double>)
MOTO_TABLE(gru_float, GruKernels<float, float>)
MOTO_TABLE(gru_bfloat16, GruKernels<float, BFloat16>)
MOTO_TABLE(gru_double, GruKernels<double, double>)
MOTO_TABLE(latent_float, LatentKernels<float, float>)
MOTO_TABLE(latent_bfloat16, LatentKernels<float, BFloat16>)
MOTO_TABLE(latent_double, LatentKernels<double, double>)
MOTO_TABLE(conv_float, ConvKernels<float>)
MOTO_TABLE(conv_double, ConvKernels<double>)
MOTO_TABLE(pixels_float, PixelKernels<float>)
MOTO_TABLE(pixels_double, PixelKernels<double>)

}  // namespace moto::cpu
