import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from moto_pl.errors import SettingError
from moto_pl.ops import extension
from moto_pl.ops.lambda_return import lambda_return, lambda_return_ref

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
#: Sources with code for CUDA alone; the others are compiled whole by any build.
WITH_CUDA = [path for path in sorted((ROOT / "csrc/ops").glob("*.cpp")) if "MOTO_WITH_CUDA" in path.read_text()]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The build's record, replaced by one that a test writes."""
    path = tmp_path / "_build.json"
    monkeypatch.setattr(extension, "_RECORD", path)
    extension._load.cache_clear()
    extension._report_once.cache_clear()
    yield path
    extension._load.cache_clear()
    extension._report_once.cache_clear()


def arguments() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    return torch.ones(3, 2), torch.ones(4, 2), torch.full((3, 2), 0.9), 0.95


def one_line(status: str) -> str:
    assert status and "\n" not in status
    return status


@pytest.mark.skipif(os.environ.get("MOTO_BUILD") != "require", reason="only where MOTO_BUILD=require")
def test_was_built() -> None:
    assert extension.available(), extension.status()


@pytest.mark.skipif(not extension.available(), reason=extension.status())
def test_built() -> None:
    assert one_line(extension.status()).startswith("compiled operators: on")
    info = extension.build_info()
    assert info["torch"] == torch.__version__ and info["compiler"]
    assert extension.use_compiled("auto", CPU) and extension.use_compiled("compiled", CPU)
    assert not extension.use_compiled("reference", CPU)
    # Where the operator has no kernel for the device, auto steps aside and compiled says so.
    assert not extension.use_compiled("auto", torch.device("meta"))
    with pytest.raises(SettingError, match="^ops: found 'compiled' with tensors on meta"):
        extension.use_compiled("compiled", torch.device("meta"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "never installed"),
        ("{", "never installed"),
        (json.dumps({"built": False, "reason": "no compiler for a test"}), "no compiler for a test"),
        (json.dumps({"built": True, "torch": "1.2.3+cpu", "cuda": None}), "built against torch 1.2.3"),
    ],
)
def test_fallback(record: Path, caplog: pytest.LogCaptureFixture, content: str | None, says: str) -> None:
    if content is not None:
        record.write_text(content)
    assert not extension.available()
    assert extension.build_info() == {}
    assert says in one_line(extension.status()) and "pip install --no-build-isolation" in extension.status()
    for _ in range(2):
        assert torch.equal(lambda_return(*arguments()), lambda_return_ref(*arguments()))
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]  # said once, not at every call
    assert says in caplog.text
    with pytest.raises(SettingError, match="^ops: found 'compiled'") as error:
        lambda_return(*arguments(), ops="compiled")
    assert says in str(error.value)


def test_module_that_does_not_load(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_text(json.dumps({"built": True, "torch": torch.__version__, "cuda": None}))

    def fail(name: str) -> None:
        raise ImportError("undefined symbol: _ZN5torch")

    monkeypatch.setattr(extension, "import_module", fail)
    assert not extension.available()
    assert "undefined symbol" in one_line(extension.status())


def test_unknown_ops() -> None:
    with pytest.raises(SettingError, match="^ops: found 'fast'"):
        lambda_return(*arguments(), ops="fast")  # type: ignore[arg-type]


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py on a copy of the sources, into ``tmp_path/lib``."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    (tree / "moto_pl").mkdir()
    (tree / "moto_pl/__init__.py").touch()
    (tree / "README.md").touch()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path / "lib")]
    return subprocess.run(
        command, cwd=tree, env={**os.environ, "MOTO_BUILD": "auto", **environment}, capture_output=True, text=True
    )


def test_build_skipped(tmp_path: Path) -> None:
    process = build(tmp_path, MOTO_BUILD="0")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "lib/moto_pl/_build.json").read_text())["built"] is False
    assert not list(tmp_path.glob("lib/moto_pl/*.so"))


@pytest.mark.parametrize(("mode", "status"), [("auto", 0), ("require", 1)])
def test_build_without_compiler(tmp_path: Path, mode: str, status: int) -> None:
    process = build(tmp_path, MOTO_BUILD=mode, CXX="no-such-compiler")
    assert process.returncode == status
    message = "no-such-compiler not found (a C++20 compiler; on Debian: apt install g++)"
    assert (process.stdout + process.stderr).count(message) == 1
    if mode == "auto":
        assert json.loads((tmp_path / "lib/moto_pl/_build.json").read_text()) == {"built": False, "reason": message}


def test_build_with_broken_compiler(tmp_path: Path) -> None:
    process = build(tmp_path, CXX="/bin/false")
    assert process.returncode == 0
    record = json.loads((tmp_path / "lib/moto_pl/_build.json").read_text())
    assert not record["built"] and "cmake failed" in record["reason"] and "\n" not in record["reason"]


def test_build_with_unknown_mode(tmp_path: Path) -> None:
    process = build(tmp_path, MOTO_BUILD="maybe")
    assert process.returncode == 1 and "MOTO_BUILD: found 'maybe'" in process.stderr


@pytest.mark.skipif(NVCC is None, reason="nvcc not found")
@pytest.mark.parametrize("kernel", sorted((ROOT / "csrc/cuda").glob("*.cu")), ids=lambda path: path.name)
def test_cuda_compiles(kernel: Path, tmp_path: Path) -> None:
    """Every kernel, for A100 and H100, without torch and without a GPU."""
    kinds = [f"-gencode=arch=compute_{kind},code=sm_{kind}" for kind in (80, 90)]
    command = [str(NVCC), "-c", "-std=c++17", "-Werror", "all-warnings", *kinds, f"-I{ROOT}/csrc", str(kernel)]
    process = subprocess.run([*command, "-o", str(tmp_path / "kernel.o")], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.skipif(NVCC is None, reason="nvcc not found")
def test_cuda_registrations_compile(tmp_path: Path) -> None:
    """What calls the kernels, against torch's CUDA headers and the toolkit's; a CPU build of torch lacks but one.

    All sources in one: most of the time goes to those headers. parity/test_cuda_emulation.py compiles each alone.
    """
    assert NVCC is not None and len(WITH_CUDA) == 4
    missing = tmp_path / "c10/cuda/impl/cuda_cmake_macros.h"
    missing.parent.mkdir(parents=True)
    missing.touch()
    own = ("Gradients", "Outputs")  # each source has types of its own by these names
    together = tmp_path / "together.cpp"
    with together.open("w") as file:
        for source in WITH_CUDA:
            file.writelines(f"#define {name} {name}_{source.stem}\n" for name in own)
            file.write(f'#include "{source}"\n')
            file.writelines(f"#undef {name}\n" for name in own)
    includes = [f"-I{ROOT}/csrc", f"-isystem={tmp_path}"]
    includes += [f"-isystem={path}" for path in include_paths()]
    warnings = "-Wall,-Wextra,-Wno-unused-parameter,-Werror"
    flags = ["-c", "-x", "c++", "-std=c++20", "-Xcompiler", f"-fsyntax-only,-fopenmp,{warnings}", "-DMOTO_WITH_CUDA"]
    process = subprocess.run([NVCC, *flags, *includes, str(together)], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-4000:]
