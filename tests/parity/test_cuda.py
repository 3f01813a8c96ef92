"""``imagine`` and ``observe`` on a CUDA device: what the emulation of test_cuda_emulation.py cannot show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moto_pl.ops import LatentSpec, imagine, observe
from moto_pl.ops.extension import build_info
from moto_pl.ops.imagine import imagine_ref
from moto_pl.ops.observe import observe_ref
from parity.rollouts import SIZES, Sizes, gradients, imagination, leaves, observation
from parity.test_rollouts import KINDS, LATENTS, assert_alike, run_imagine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not build_info().get("cuda"), reason="built without CUDA kernels"),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
EACH_LATENT = pytest.mark.parametrize("latent", LATENTS, ids=["3x4", "5x17", "gaussian"])
# Sizes for which observe is one launch: a shape of the demo's kind, and the paper's.
SCANS = [Sizes(16, 64, 48, 1, 4, (), 6), Sizes(16, 1024, 1024, 1, 9, (), 4)]


def on_device(value: Any) -> Any:
    """The same arguments on the GPU; leaves stay leaves."""
    if isinstance(value, Tensor):
        return value.detach().cuda().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: on_device(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields") and any(isinstance(x, Tensor) for x in value):
        return type(value)(*map(on_device, value))
    return type(value)(map(on_device, value)) if type(value) in (list, tuple) else value


@DTYPES
@EACH_LATENT
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action_kind", ["trunc_normal", "tanh_normal"])
@pytest.mark.parametrize("member_choice", ["step", "row"])
def test_imagine_is_its_reference(
    latent: LatentSpec, sizes: Sizes, dtype: torch.dtype, kind: str, action_kind: str, member_choice: str
) -> None:
    if kind == "max_var" and latent.kind == "categorical":
        pytest.skip("no std to take")
    arguments = on_device(imagination(latent, sizes, dtype))
    options = {"disagreement_kind": kind, "action_kind": action_kind, "member_choice": member_choice}
    for fields in ((0, 1, 2, 3, 4), (0, 1, 2, 3)):
        expected, expected_grads = run_imagine(imagine_ref, arguments, fields, **options)
        found, found_grads = run_imagine(imagine, arguments, fields, **options, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(found_grads, expected_grads, dtype)


@DTYPES
@EACH_LATENT
@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_observe_is_its_reference(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype) -> None:
    arguments = on_device(observation(latent, sizes, dtype))
    for fields in ((0, 1, 2), (1,), (2,)):
        expected, found = observe_ref(**arguments), observe(**arguments, ops="compiled")
        assert_alike(found, expected, dtype)
        assert_alike(gradients(arguments, found, fields), gradients(arguments, expected, fields), dtype)


@pytest.mark.parametrize("sizes", SIZES[:1] + SCANS, ids=str)
def test_bfloat16_is_the_cpus(sizes: Sizes) -> None:
    """Step by step, and in one launch."""
    on_cpu = observation(LatentSpec("categorical", 8, 16), sizes, torch.float32, embed=16)

    def run(arguments: dict[str, Any], device: str) -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16):
            outputs = observe(**arguments, ops="compiled")
        return [x.float().cpu() for x in (*outputs, *gradients(arguments, outputs, (0, 1, 2)))]

    for index, (one, other) in enumerate(zip(run(on_device(on_cpu), "cuda"), run(on_cpu, "cpu"), strict=True)):
        scale = max(1.0, other.abs().max().item())
        # A probability near a uniform number may fall to its other side: such a row is another one.
        close = torch.isclose(one / scale, other / scale, atol=2e-2, rtol=2e-2).float().mean()
        assert close > 0.97, (index, close)


def test_draws_are_the_cpus() -> None:
    arguments = imagination(LATENTS[1], Sizes(64, 16, 24, 3, 2, (8,), 3), torch.float32)
    found, expected = imagine(**on_device(arguments)), imagine(**arguments)
    torch.testing.assert_close(found.action[0].cpu(), expected.action[0], atol=1e-4, rtol=1e-4)
    assert (found.stoch.cpu() == expected.stoch).float().mean() > 0.999


def _objective(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        outputs = function(**arguments, ops="compiled")
        total = sum(x.float().square().sum() for x in outputs)
        return [total, *torch.autograd.grad(total, leaves(arguments))]  # type: ignore[arg-type, list-item]

    return run


@pytest.mark.parametrize("task", ["imagine", "observe"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_in_a_cuda_graph(task: str, half: bool) -> None:
    """Captured once, replayed on other values: a launch on another stream would break the capture or miss them."""
    latent = LatentSpec("categorical", 4, 8)
    sizes = Sizes(16, 32, 48, 3, 2, (16,), 3)
    arguments = on_device((imagination if task == "imagine" else observation)(latent, sizes, torch.float32))
    run = _objective(imagine if task == "imagine" else observe, arguments)
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run()  # libraries set up their workspaces outside of the capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
        with torch.no_grad():
            arguments["deter"].mul_(0.5)
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(captured, run(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_reduce_overhead() -> None:
    """Under torch.compile's CUDA graphs, on fresh values each time; kernels off the current stream would come early."""
    arguments = on_device(
        observation(LatentSpec("categorical", 4, 8), Sizes(16, 32, 48, 3, 2, (16,), 3), torch.float32)
    )

    def total(deter: Tensor) -> Tensor:
        outputs = observe(**(arguments | {"deter": deter * 2}), ops="compiled")
        return sum(x.square().sum() for x in outputs)  # type: ignore[return-value]

    compiled = torch.compile(total, mode="reduce-overhead")
    for step in range(5):
        deter = torch.full_like(arguments["deter"], 0.1 * step).requires_grad_()
        torch.compiler.cudagraph_mark_step_begin()
        busy = torch.randn(4096, 4096, device="cuda")
        deter.data += 0 * (busy @ busy).sum()  # the value comes late on the current stream
        found = torch.autograd.grad(compiled(deter), deter)[0].clone()
        torch.testing.assert_close(found, torch.autograd.grad(total(deter), deter)[0], rtol=1e-5, atol=1e-5)


def test_launches_are_few() -> None:
    """Of a step of imagine: seven products and seven kernels forward, four and four backward; of a scan, one."""
    counts = {}
    for steps in (2, 6):
        arguments = on_device(imagination(LATENTS[0], Sizes(16, 32, 48, 3, 2, (16, 16, 16, 16), steps), torch.float32))
        run = _objective(imagine, arguments)
        run()
        counts[steps] = launches(run)
    assert counts[6] - counts[2] <= 4 * (14 + 8 + 1)  # a product may take a kernel more
    arguments = on_device(observation(LatentSpec("categorical", 8, 16), SCANS[0], torch.float32, embed=16))
    with torch.autocast("cuda", torch.bfloat16):
        run = _objective(observe, arguments)
        run()
        few = launches(run)
        arguments = on_device(
            observation(LatentSpec("categorical", 8, 16), SCANS[0]._replace(steps=12), torch.float32, embed=16)
        )
        run = _objective(observe, arguments)
        run()
        assert launches(run) == few  # whatever the steps


def launches(run: Callable[[], Any]) -> int:
    """Kernels that ``run`` launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA)
