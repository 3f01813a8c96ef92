"""``trainer.deterministic``: what a GPU cannot repeat is refused, in torch and in our operators."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moto_pl.cli import main
from moto_pl.ops.extension import without_operators
from moto_pl.ops.latent import LatentSpec, draw_noise, sample
from moto_pl.ops.philox import Key
from runs import assert_same_end, command, environment, fault

HERE = __name__
#: What torch 2 refuses on a GPU in this mode, by the beginnings of the operators' names (its page on
#: ``use_deterministic_algorithms``); what it then does in another way is not among them.
REFUSED = (
    *("cumsum", "put_", "histc", "bincount", "kthvalue", "median.dim", "nll_loss2d", "_ctc_loss_backward"),
    *("avg_pool3d_backward", "adaptive_avg_pool", "_adaptive_avg_pool2d_backward", "max_pool3d_with_indices_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool", "max_unpool", "reflection_pad1d_backward"),
    *("reflection_pad3d_backward", "upsample_", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    *("scatter_reduce", "_embedding_bag"),
)


class Called(TorchDispatchMode):
    """Notes the operators that are called."""

    names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in args):
            Called.names.add(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


class Watch(L.Callback):
    """Notes what gradient steps call, forwards and backwards; ``refused``: calls what no device can repeat."""

    def __init__(self, refused: bool = False) -> None:
        self.refused, self.mode = refused, Called()
        Called.names = set()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.refused:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        self.mode.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.mode.__exit__(None, None, None)


def fit(run: Path, dataset: Path, *args: str, agent: str = "MOTO") -> list[str]:
    """Two gradient steps."""
    words = command(run, "--data.dataset", str(dataset), "--data.build_missing", "false", agent=agent)[3:]
    words += ["--data.offline_steps", "2", "--data.offline_round_steps", "2", "--data.online_steps", "0"]
    return [*words, "--data.eval_episodes", "0", "--trainer.deterministic", "true", *args]


@pytest.fixture(autouse=True)
def as_before() -> Any:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("agent", ["MOTO", "LOMPO", "IQL", "CQL"])
def test_no_gradient_step_calls_what_a_gpu_refuses(
    agent: str, reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looked for on a CPU, in the references: whatever these agents call, another shares."""
    with without_operators():
        code = main(fit(tmp_path, reach_dataset, f"--trainer.callbacks+={HERE}.Watch", agent=agent))
    assert code == 0, capsys.readouterr().err
    assert any("backward" in name for name in Called.names) and "mm.default" in Called.names
    assert not sorted(name for name in Called.names if name.startswith(REFUSED))


def test_what_cannot_be_repeated_is_one_line(
    reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = (f"--trainer.callbacks+={HERE}.Watch", "--trainer.callbacks.refused=true")
    assert main(fit(tmp_path, reach_dataset, *refused)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("moto: "))
    assert line.startswith("moto: trainer.deterministic: found true, and put_, which PyTorch cannot repeat")
    assert "trainer.deterministic: warn" in line
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        assert main(fit(tmp_path, reach_dataset, *refused, "--trainer.deterministic", "warn")) == 0


def test_latents_are_drawn_alike() -> None:
    """On a CPU it changes no bit."""
    spec = LatentSpec("categorical", stoch=4, classes=32)
    params = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    noise = draw_noise(spec, Key(0, 0), (64,), params)
    drawn = sample(spec, params, noise)
    torch.use_deterministic_algorithms(True)
    assert torch.equal(sample(spec, params, noise), drawn)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["auto", "reference"])
def test_a_gpu_repeats_a_run_and_goes_on_with_it_to_the_bit(ops: str, reach_dataset: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    visible = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
    env = {**{k: v for k, v in environment().items() if k != "CUDA_VISIBLE_DEVICES"}, **visible}
    args = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--model.init_args.ops", ops)
    args += ("--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.deterministic", "true")

    def run(name: str, *more: str) -> int:
        return subprocess.run(command(tmp_path / name, *args, *more), env=env, timeout=900).returncode

    assert run("one") == 0 and run("two") == 0
    assert_same_end(tmp_path / "one", tmp_path / "two")
    assert run("killed", *fault(33)) == -9 and run("killed") == 0
    assert_same_end(tmp_path / "one", tmp_path / "killed")
