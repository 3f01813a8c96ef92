"""Builds the compiled module ``moto_pl._C`` with CMake and Ninja; all metadata is in pyproject.toml.

The module is optional: without a compiler the package installs all the same and its plain-PyTorch references serve.
``moto_pl/_build.json``, which ``moto_pl.ops.extension`` reads, says what was built of which commit, or why nothing was.

Environment:
    MOTO_BUILD: ``auto`` (default), ``0`` (build nothing; a wheel is then for any machine) or ``require`` (a failed
        build fails the installation).
    MOTO_CUDA: ``auto`` (default: where torch has CUDA and nvcc is found) or ``0``.
    CUDAARCHS: architectures of the CUDA kernels, ``80;90`` by default (CMake's own variable).
    CMAKE_BUILD_PARALLEL_LEVEL: compile jobs, all cores by default (CMake's own variable).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
# Tools installed by pip lie beside the interpreter, which need not be on PATH.
SEARCH_PATH = os.pathsep.join(
    [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
)


class BuildError(Exception):
    """Why the module cannot be built, in one line."""


def tool(name: str, purpose: str) -> str:
    """The path of a program, or a BuildError that says what to install."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise BuildError(f"{name} not found ({purpose})")
    return path


def run(command: list[str]) -> None:
    """Runs a build step; a failure becomes the first line of its output that names an error."""
    environment = {**os.environ, "PATH": SEARCH_PATH}
    process = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    print(process.stdout, flush=True)
    if process.returncode:
        lines = [line.strip() for line in process.stdout.splitlines() if line.strip()]
        # CMake prints "CMake Error at file:line (command):" and the reason on the next line.
        for index, line in enumerate(lines):
            if re.search(r"\berror\b", line, re.IGNORECASE):
                reason = " ".join(lines[index : index + 2]) if line.endswith(":") else line
                break
        else:
            reason = lines[-1] if lines else "no output"
        raise BuildError(f"{Path(command[0]).name} failed: {reason}")


def commit() -> str | None:
    """The commit that is packaged: of a clone, or what its sdist has written down."""
    if (ROOT / ".git").exists():
        describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        try:
            return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip() or None
        except (OSError, subprocess.CalledProcessError):
            return None
    return (ROOT / "COMMIT").read_text().strip() if (ROOT / "COMMIT").is_file() else None


def cuda_compiler(torch_cuda: str | None) -> str | None:
    """The nvcc to use, or None where the CUDA kernels are not to be built."""
    nvcc = shutil.which("nvcc", path=SEARCH_PATH)
    if torch_cuda is None or nvcc is None or os.environ.get("MOTO_CUDA", "auto") == "0":
        return None
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    match = re.search(r"release (\d+)\.", version)
    if match is None or match[1] != torch_cuda.split(".")[0]:
        found = match[1] if match else "of unknown version"
        print(f"moto_pl: CUDA kernels left out: nvcc is {found}, torch was built with CUDA {torch_cuda}", flush=True)
        return None
    return nvcc


class CMakeBuild(build_ext):
    """Builds the module by CMake, and records how that went."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        mode = os.environ.get("MOTO_BUILD", "auto")
        if mode not in ("auto", "0", "require"):
            sys.exit(f"MOTO_BUILD: found {mode!r}. Use auto, 0 or require.")
        try:
            if mode == "0":
                raise BuildError("MOTO_BUILD=0 was set when this was packaged")
            record = {"built": True, **self.compile(ext, target)}
        except BuildError as error:
            if mode == "require":
                sys.exit(f"moto_pl: compiled operators could not be built: {error}")
            print(f"moto_pl: compiled operators not built, the PyTorch references serve: {error}", flush=True)
            record = {"built": False, "reason": str(error)}
        if commit():
            record["commit"] = commit()
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "_build.json").write_text(json.dumps(record, indent=1) + "\n")

    def compile(self, ext: Extension, target: Path) -> dict[str, str | None]:
        """Configures and builds into ``target``; returns what it was built against."""
        try:
            import pybind11
            import torch
            from torch.utils.cpp_extension import include_paths
        except ImportError as error:
            raise BuildError(
                f"{error.name} cannot be imported here (install it first, then use --no-build-isolation)"
            ) from None
        cmake, ninja = tool("cmake", "pip install cmake"), tool("ninja", "pip install ninja")
        tool(os.environ.get("CXX", "c++").split()[0], "a C++20 compiler; on Debian: apt install g++")
        nvcc = cuda_compiler(torch.version.cuda)
        # CMake reads these once and caches them: a build directory for each combination.
        cached = [str(ROOT), sys.executable, torch.__file__, torch.__version__]
        cached += [os.environ.get(name, "") for name in ("CXX", "CXXFLAGS", "LDFLAGS", "CUDAARCHS", "CUDAFLAGS")]
        key = hashlib.sha256("\0".join(cached).encode()).hexdigest()[:12]
        build = ROOT / "build" / f"cmake-{key}"
        arguments = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(build / "out"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "MOTO_TORCH_INCLUDES": ";".join(include_paths()),
            "MOTO_TORCH_LIB": str(Path(torch.__file__).parent / "lib"),
            "MOTO_TORCH_VERSION": torch.__version__,
            "MOTO_WITH_CUDA": "ON" if nvcc else "OFF",
        }
        if nvcc:
            arguments["CMAKE_CUDA_COMPILER"] = nvcc
        run([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *(f"-D{k}={v}" for k, v in arguments.items())])
        run(
            [
                cmake,
                "--build",
                str(build),
                "--parallel",
                os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count())),
            ]
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(next((build / "out").glob("_C.*")), target)
        return {"torch": torch.__version__, "cuda": torch.version.cuda if nvcc else None}

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: the record goes along, and no module of an earlier build outlives a failure."""
        build_py = self.get_finalized_command("build_py")
        for ext in self.extensions:
            inplace, built = (Path(path) for path in self._get_inplace_equivalent(build_py, ext))
            if built.exists():
                # Renamed into place: a process that has the old module mapped keeps it.
                shutil.copy2(built, inplace.with_suffix(".tmp"))
                os.replace(inplace.with_suffix(".tmp"), inplace)
            else:
                inplace.unlink(missing_ok=True)
            shutil.copy2(built.with_name("_build.json"), inplace.with_name("_build.json"))


class Source(sdist):
    """Writes down the commit, which is not to be had from the files."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if name := commit():
            (Path(base_dir) / "COMMIT").write_text(f"{name}\n")


class Wheel(bdist_wheel):
    """With ``MOTO_BUILD=0`` a wheel for any machine: pip takes it where no wheel with compiled operators fits."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = os.environ.get("MOTO_BUILD") == "0"


configs: dict[str, list[str]] = {}
for path in sorted((ROOT / "configs").rglob("*.yaml")):
    configs.setdefault(f"share/moto_pl/{path.parent.relative_to(ROOT)}", []).append(str(path.relative_to(ROOT)))

setup(
    # Optional, so that setuptools accepts a build that left no module behind.
    ext_modules=[Extension("moto_pl._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel, "sdist": Source},
    data_files=list(configs.items()),  # for wheels; moto_pl.training.configs.config_path looks here too
)
