// Included before the operators' sources: registers them as moto_emulated::, their CUDA implementations for tensors on the CPU.
#pragma once

#include <torch/library.h>

#define EMULATED_CUDA CPU
#define EMULATED_CPU PrivateUse1  // never called
#define EMULATED_Autograd Autograd
#define EMULATED_Meta Meta
#define EMULATED_IMPL(key, library) _TORCH_LIBRARY_IMPL(moto_emulated, key, library, C10_UID)
#undef TORCH_LIBRARY_FRAGMENT
#define TORCH_LIBRARY_FRAGMENT(name, library) _TORCH_LIBRARY_FRAGMENT(moto_emulated, library, C10_UID)
#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(name, key, library) EMULATED_IMPL(EMULATED_##key, library)
