// The Python module moto_pl._C. Loading it registers the operators of ops/; it reports how it was built.
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled operators of moto_pl, registered as torch.ops.moto.";
  module.def(
      "build_info",
      [] {
        py::dict info;
        info["compiler"] = MOTO_COMPILER;
        info["torch"] = MOTO_TORCH_VERSION;
        info["cuda"] = MOTO_CUDA_VERSION[0] ? py::object(py::str(MOTO_CUDA_VERSION)) : py::object(py::none());
        info["cuda_architectures"] = MOTO_CUDA_ARCHITECTURES;
        return info;
      },
      "How the module was built: compiler, torch, cuda (None without) and cuda_architectures.");
}
