"""The CUDA kernels and their drivers, run on the CPU by tests/cuda_emulation, against the references.

What a GPU alone can show (speed, streams, its memory's order) is in test_cuda.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch.utils.cpp_extension import include_paths

from moto_pl.ops import Key, KeyTable, LatentSpec, Stream, autograd, imagine, lambda_return, observe, uniform
from moto_pl.ops.imagine import imagine_ref
from moto_pl.ops.lambda_return import lambda_return_ref
from moto_pl.ops.observe import observe_ref
from moto_pl.ops.philox import philox, philox_ref, uniform_ref
from parity.rollouts import Sizes, gradients, imagination, observation
from parity.test_rollouts import KINDS, LATENTS, assert_alike, run_imagine

ROOT = Path(__file__).parents[2]
CXX = shutil.which(os.environ.get("CXX", "c++"))
REAL = torch.ops.moto
pytestmark = [pytest.mark.skipif(CXX is None, reason="no C++ compiler"), pytest.mark.usefixtures("emulated")]


def _sources() -> dict[Path, list[str]]:
    """Source files and what each is compiled with beside the rest."""
    own = Path(__file__).parents[1] / "cuda_emulation"
    # The others are for the CPU alone; what runs there is never called, and need not be fast.
    both = (ROOT / f"csrc/ops/{name}.cpp" for name in ("imagine", "observe", "lambda_return", "philox"))
    operators = {path: ["-include", str(own / "library.h")] for path in both}
    kernels = {path: ["-x", "c++"] for path in (ROOT / "csrc/cuda").glob("*.cu")}
    cpu = {path: ["-O0"] for path in (ROOT / "csrc/cpu").glob("*.cpp")}
    vectorised = {path: ["-O0", "-DMOTO_ISA=generic"] for path in (ROOT / "csrc/cpu/isa").glob("*.cpp")}
    return {**operators, **kernels, **cpu, **vectorised, own / "emulation.cpp": []}


@pytest.fixture(scope="session")
def library() -> Path:
    """The library, built anew where a source has changed."""
    own = ROOT / "tests/cuda_emulation"
    files = sorted(p for top in (ROOT / "csrc", own) for p in top.rglob("*") if p.is_file())
    digest = hashlib.sha256(torch.__version__.encode() + b"".join(p.read_bytes() for p in files)).hexdigest()[:12]
    folder = ROOT / "build" / f"emulation-{digest}"
    built = folder / "libmoto_emulated.so"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++20", "-O1", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-DMOTO_WITH_CUDA"]
    flags += [f"-I{own}", f"-I{ROOT}/csrc", *(f"-isystem{path}" for path in include_paths())]

    def run(command: list[str]) -> None:
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr[-4000:]

    def compile_one(item: tuple[Path, list[str]]) -> str:
        path, options = item
        target = folder / f"{path.parent.name}_{path.stem}.o"
        run([str(CXX), *flags, *options, "-c", str(path), "-o", str(target)])
        return str(target)

    with FileLock(folder / "lock"):
        if not built.exists():
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(compile_one, _sources().items()))
            torch_lib = Path(torch.__file__).parent / "lib"
            libraries = [f"-L{torch_lib}", "-ltorch", "-ltorch_cpu", "-lc10"]
            run([str(CXX), "-shared", "-fopenmp", *objects, *libraries, "-o", f"{built}.part"])
            Path(f"{built}.part").rename(built)
    return built


@pytest.fixture
def emulated(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package's operators are the emulated ones."""
    torch.ops.load_library(library)
    autograd.register("moto_emulated")
    monkeypatch.setattr(torch.ops, "moto", torch.ops.moto_emulated)
    yield


def launches(library: Path, kind: str = "emulated_launches") -> int:
    """How many there have been."""
    return ctypes.c_int64.in_dll(ctypes.CDLL(str(library)), kind).value


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_draws_are_their_reference(dtype: torch.dtype) -> None:
    for key in (Key(3, 7), Key(2**64 - 1, 2**63 + 5)):
        for count in (0, 1, 5, 4 * 256, 4 * 256 + 3):
            if dtype == torch.int64:
                assert philox(key, Stream.ROWS, count).equal(philox_ref(key, Stream.ROWS, count))
            else:
                found = uniform(key, Stream.ROWS, (count,), dtype=dtype)
                assert found.equal(uniform_ref(key, Stream.ROWS, (count,), dtype=dtype))


@pytest.mark.parametrize("latent", LATENTS, ids=["3x4", "5x17", "gaussian"])
def test_kernels_read_keys_from_their_memory(latent: LatentSpec) -> None:
    """As a replayed CUDA graph does: nothing but the table says which draws are made, forward and backward."""
    table = KeyTable(torch.device("cpu"))
    base = table.base().fold(3)
    rollout, sequence = imagination(latent, SIZES[0], torch.float64), observation(latent, SIZES[0], torch.float64)
    results = []
    for key in (Key(5, 6), Key(2**63 + 9, 8)):
        table.write(key)
        for placed in (base, key.fold(3)):
            imagined = imagine(**(rollout | {"key": placed}), ops="compiled")
            seen = observe(**(sequence | {"key": placed}), ops="compiled")
            words = philox(placed, Stream.NOISE, 9)
            # Without a gradient of the disagreement too, where the host chooses members if it knows the key.
            grads = [*gradients(rollout, imagined, (0, 1, 2, 3)), *gradients(sequence, seen, (0, 1, 2))]
            results.append([*imagined, *seen, words, *grads])
    for one, other in ((0, 1), (2, 3)):
        for a, b in zip(results[one], results[other], strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
    assert not torch.equal(results[0][2], results[2][2])


SIZES = [Sizes(2, 5, 7, 3, 2, (6, 9), 2), Sizes(1, 33, 18, 1, 1, (5,), 1), Sizes(2, 6, 4, 2, 3, (), 2)]
# Beyond a warp's width: 40 classes.
WIDE = [*LATENTS, LatentSpec("categorical", 2, 40)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("latent", WIDE, ids=["3x4", "5x17", "gaussian", "2x40"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_imagine_is_its_reference(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype, kind: str) -> None:
    if kind == "max_var" and latent.kind == "categorical":
        pytest.skip("no std to take")
    arguments = imagination(latent, sizes, dtype)
    # Both choices and both kinds of actions, in turn.
    choice, action_kind = ("step", "trunc_normal") if dtype == torch.float64 else ("row", "tanh_normal")
    options = {"disagreement_kind": kind, "action_kind": action_kind, "member_choice": choice}
    for fields in ((0, 1, 2, 3, 4), (0, 1, 2, 3)):
        expected, expected_grads = run_imagine(imagine_ref, arguments, fields, **options)
        found, found_grads = run_imagine(imagine, arguments, fields, **options, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(found_grads, expected_grads, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("latent", WIDE, ids=["3x4", "5x17", "gaussian", "2x40"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_observe_is_its_reference(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype) -> None:
    arguments = observation(latent, sizes._replace(steps=4), dtype)
    for fields in ((0, 1, 2), (1,), (2,)):
        expected, found = observe_ref(**arguments), observe(**arguments, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(gradients(arguments, found, fields), gradients(arguments, expected, fields), dtype)


def assert_the_cpus(found: list[torch.Tensor], run: Callable[[], list[torch.Tensor]]) -> None:
    """What the emulated kernels found is what ``run`` finds with the CPU's, to bfloat16's precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.ops, "moto", REAL)
        expected = run()
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one / scale, other / scale, atol=2e-2, rtol=2e-2, msg=lambda m, i=index: f"{i}: {m}")


@pytest.mark.parametrize("latent", [LATENTS[1], LATENTS[2]], ids=["5x17", "gaussian"])
@pytest.mark.parametrize("kind", ["mean", "logit"])
def test_bfloat16_is_the_cpus(latent: LatentSpec, kind: str, emulated: None) -> None:
    """Products in bfloat16 round alike on both; what lies between them may differ in its last bit."""
    mine, observed = imagination(latent, SIZES[0], torch.float32), observation(latent, SIZES[0], torch.float32)

    def both() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            imagined = imagine(**mine, disagreement_kind=kind, ops="compiled")
            posterior = observe(**observed, ops="compiled")
        grads = gradients(mine, imagined, (0, 1, 2, 3, 4)) + gradients(observed, posterior, (0, 1, 2))
        return [*imagined, *posterior, *grads]

    assert_the_cpus(both(), both)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_lambda_return_is_its_reference(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 130), (5, 130), (4, 130)]
    inputs = [torch.rand(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]
    found, expected = lambda_return(*inputs, 0.9, "compiled"), lambda_return_ref(*inputs, 0.9)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found).to(dtype)
    for one, other in zip(
        torch.autograd.grad(found, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_the_kernels_that_run_are_the_emulated_ones(library: Path) -> None:
    """So that the tests above cannot pass by running the CPU's: those are registered for another device here."""
    registered = torch._C._dispatch_dump("moto_emulated::imagine")
    assert "\nCPU: registered at" in registered and "PrivateUse1: registered at" in registered
    assert torch.ops.moto is not REAL


def test_a_step_is_few_launches(library: Path) -> None:
    """Kernels a step, forward and backward, beside the products: those that docs/operators.md states."""

    def count(task: str, steps: int) -> int:
        sizes = Sizes(2, 5, 7, 3, 2, (6, 9, 4, 3), steps)
        arguments = (imagination if task == "imagine" else observation)(LATENTS[0], sizes, torch.float32)
        before = launches(library)
        outputs = (imagine if task == "imagine" else observe)(**arguments, ops="compiled")
        gradients(arguments, outputs, (0, 1, 2))
        return launches(library) - before

    assert count("imagine", 3) - count("imagine", 2) == 7 + 4
    assert count("observe", 4) - count("observe", 3) == 3 + 4


# Rows that fill no tile and more than one; columns for all blocks; a depth that all warps share.
SCANS = [Sizes(8, 10, 22, 1, 2, (), 3), Sizes(24, 34, 150, 1, 3, (), 2)]


@pytest.mark.parametrize(("sizes", "fields"), [(SCANS[0], (0, 1, 2)), (SCANS[0], (1,)), (SCANS[1], (0, 1, 2))], ids=str)
def test_scan_is_the_cpu(sizes: Sizes, fields: tuple[int, ...], library: Path) -> None:
    """All steps of observe in one launch: products on emulated tensor cores, barriers over all blocks."""
    arguments = observation(LatentSpec("categorical", 4, 6), sizes, torch.float32, embed=6)
    # The helper's input layer is one wider than `hidden`; a scan wants it even.
    cell = arguments["cell"]
    units = sizes.hidden
    gru = torch.cat((cell.gru_weight[:, :units], cell.gru_weight[:, units + 1 :]), -1).detach().requires_grad_()
    arguments["cell"] = cell._replace(
        input_weight=cell.input_weight[:units].detach().requires_grad_(),
        input_bias=cell.input_bias[:units].detach().requires_grad_(),
        gru_weight=gru,
    )

    def both() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            posterior = observe(**arguments, ops="compiled")
        return [*posterior, *gradients(arguments, posterior, fields)]

    before = launches(library, "emulated_cooperative_launches")
    found = both()
    assert launches(library, "emulated_cooperative_launches") == before + 2  # forward and backward
    assert_the_cpus(found, both)
