// Which of a kernel's builds to take: that for the widest vectors that this processor has. MOTO_ISA=avx2 or generic in the environment
// takes a narrower one, for tests.
#pragma once

#include <cstdlib>
#include <string_view>

namespace moto::cpu {

#ifdef MOTO_X86
enum class Isa { generic, avx2, avx512 };

inline Isa widest() {
  __builtin_cpu_init();
  const char* const set = std::getenv("MOTO_ISA");
  const std::string_view most = set ? set : "avx512";
  if (most == "generic") return Isa::generic;
  if (most != "avx2" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return Isa::avx512;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::avx2 : Isa::generic;
}
#define MOTO_CHOOSE(name)                                    \
  static const Isa isa = widest();                           \
  return isa == Isa::avx512 ? avx512::name : isa == Isa::avx2 ? avx2::name : generic::name
#else
#define MOTO_CHOOSE(name) return generic::name
#endif

}  // namespace moto::cpu
