"""Gradient steps as CUDA graphs take them, by a stand-in that runs the same step again on the same static tensors."""

from __future__ import annotations

import copy
import csv
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train_step import ACTIONS, AGENTS, agent_of_size, load_agent, random_batch
from moto_pl.agents import capture
from moto_pl.agents.base import RunFacts
from moto_pl.agents.capture import WARM_UP, CapturedStep, Outcome, Step
from moto_pl.agents.param_groups import Clipping
from moto_pl.ops import Key, KeyTable, Stream, normal, uniform
from moto_pl.ops.extension import without_operators
from moto_pl.ops.philox import philox, philox_ref, uniform_ref
from moto_pl.schedule import Schedule
from recorder import Watches
from runs import assert_same_end, fault, final, fit

CPU = torch.device("cpu")


# What waits for a device, or copies from the host, is not to be in a step.

_READS = {Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__}
_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "lift_fresh",
    "repeat_interleave",
}


class _NoReads(TorchFunctionMode):
    """Refuses what reads a tensor's values, by the name that the code uses."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _READS:
            raise AssertionError(f"{function.__name__} waits for the device")
        return function(*args, **(kwargs or {}))


class _NoWaits(TorchDispatchMode):
    """Refuses operators whose result's size or value the host needs, and tensors made of the host's data."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8)
            for arg in args[1:2]
            for x in (arg if isinstance(arg, list | tuple) else [arg])
        )
        if name in _WAITS or masks:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with _NoReads(), _NoWaits():
        yield


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.where(x > 0),
        lambda x: x.index_put((x > 0,), x.new_zeros(())),
        lambda x: x[[0, 1]],
        lambda x: x + torch.tensor([1.0, 2.0]),
    ],
)
def test_what_waits_is_refused(wait: Any) -> None:
    x = torch.ones(2)
    wait(x)
    with pytest.raises(AssertionError, match="waits"), no_waiting():
        wait(x)


def _strict(step: Step) -> Step:
    """Runs the step where nothing may wait, but for the first time, when its keys get their rows."""
    waiting = chain([nullcontext], repeat(no_waiting))

    def replay() -> Outcome:
        with next(waiting)():
            return step()

    return replay


def clippings(agent: Any) -> list[Clipping]:
    return [Clipping(group.name, group.modules, group.clip) for group in agent.param_groups()]


def eager_step(agent: Any, optimizer: torch.optim.Optimizer, batch: Any, key: Key, step: int) -> dict[str, Tensor]:
    """What Lightning makes of a step."""
    losses, _ = agent.losses(batch, key)
    optimizer.zero_grad()
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    for clipping in clippings(agent):
        clipping.clip()
    optimizer.step()
    agent.after_step(step)
    return {name: loss.detach() for name, loss in losses.items()}


OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {
        "world_model": {"latent": "gaussian"},
        "behaviour": {"disagreement": "max_var", "action": "tanh_normal", "imagine_member": "row"},
    },
    "unpenalised": {"behaviour": {"disagreement_scale": 0, "real_return": "data", "disagreement_unit": "data"}},
    "log_prob": {"behaviour": {"disagreement": "log_prob", "clone_filter": "advantage", "imagine_rows": None}},
    "v": {"behaviour": {"critic": "v"}},
    "heard": {"behaviour": {"value_episodes": [2, 8]}},
    "references": {"ops": "reference"},
}


def make(name: str) -> Any:
    agent = load_agent("debug", CPU, **OPTIONS[name]) if name in OPTIONS else agent_of_size(name, "debug", CPU)
    agent.final_lr, agent.weight_decay = 1.0, 1e-3
    if name == "heard":
        agent.facts = RunFacts(ACTIONS, False, Schedule(2, 100, 1, 1))
    if hasattr(agent, "td"):  # learning rates that fall need a run
        agent.td = replace(agent.td, actor_lr="constant")
    return agent


@pytest.mark.parametrize("name", [*AGENTS, *OPTIONS])
def test_replayed_steps_are_the_eager_ones_and_wait_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = make(name)
    captured = copy.deepcopy(eager)
    if hasattr(eager, "replay"):  # which no copy takes along
        captured.replay = eager.replay
    optimizers = eager.configure_optimizers(), captured.configure_optimizers()
    steps = CapturedStep(captured, optimizers[1], CPU, _strict)
    for step in range(1, 21):
        monkeypatch.setattr(type(eager), "global_step", step - 1)
        batch, key = random_batch(eager, CPU), Key(3, step).fold(7)
        expected = eager_step(eager, optimizers[0], batch, key, step)
        outcome = steps.take(batch, key, "all", clippings(captured), step)
        for loss in expected:
            assert torch.equal(outcome.losses[loss], expected[loss]), (step, loss)
    before, after = eager.state_dict(), captured.state_dict()
    for weight in before:
        assert torch.equal(before[weight], after[weight]), weight
    assert steps.broken() is None
    # One graph; where targets are copied from time to time, another for these steps.
    assert len(steps._kinds) == (
        2 if hasattr(eager.config if hasattr(eager, "config") else eager, "target_every") else 1
    )


@pytest.mark.parametrize("form", ["operators", "references"])
@pytest.mark.parametrize("name", AGENTS)
def test_eager_steps_wait_for_nothing(name: str, form: str) -> None:
    """With the references too: on a GPU they serve where there is an operator for the CPU alone."""
    agent = make(name)
    optimizer = agent.configure_optimizers()
    with without_operators() if form == "references" else nullcontext():
        for step in range(1, 3):
            batch = agent.drawn_on_host("all", random_batch(agent, CPU), Key(0, step))
            # In the first, the optimizer makes its state.
            with no_waiting() if step > 1 else nullcontext():
                eager_step(agent, optimizer, batch, Key(0, step), step)


def test_a_constant_in_a_step_is_found() -> None:
    """The test of all agents fails where a draw takes its key from the host, or a step its batch from elsewhere."""
    agent = make("BC")
    steps = CapturedStep(agent, agent.configure_optimizers(), CPU)
    batch, seen = random_batch(agent, CPU), []
    own = agent.losses_of

    def losses_of(components: Any, given: Any, key: Key) -> Any:
        seen.append((tuple(key[:2]), given["transitions"].image.data_ptr(), key.fold(3)[:1]))
        return own(components, given, key)

    agent.losses_of = losses_of
    for step in (1, 2):
        steps.take(batch, Key(11, 22 + step), "all", clippings(agent), step)
    assert seen[0] == seen[1] and seen[0][0] == (0, 0)  # the host's key says nothing
    assert seen[0][1] != batch["transitions"].image.data_ptr()


def test_keys_in_a_table() -> None:
    table = KeyTable(CPU, size=3)
    base = table.base()
    folded = base.fold(3).fold(1, 2)
    for offset in (5, -(2**62), 2**63 - 1):
        keys = [uniform(base, Stream.NOISE, (4,)), uniform(folded, Stream.NOISE, (4,))]  # they get their rows
        key = Key(2**64 - 3, offset)
        table.write(key)
        keys = [key, key.fold(3).fold(1, 2)]
        for placed, plain in zip((base, folded), keys, strict=True):
            assert uniform(placed, Stream.NOISE, (9,)).equal(uniform(plain, Stream.NOISE, (9,)))
            assert uniform_ref(placed, Stream.NOISE, (9,)).equal(uniform(plain, Stream.NOISE, (9,)))
            assert normal(placed, Stream.NOISE, (9,)).equal(normal(plain, Stream.NOISE, (9,)))
            assert philox(placed, 3, 9).equal(philox_ref(plain, 3, 9))
    uniform(base.fold(9), Stream.NOISE, (1,))
    with pytest.raises(RuntimeError, match="more than 3 keys"):
        uniform(base.fold(10), Stream.NOISE, (1,))


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_reported() -> None:
    agent = make("MOTO")
    optimizer = agent.configure_optimizers()
    steps = CapturedStep(agent, optimizer, CPU, _strict)
    for step in range(1, 7):
        batch = random_batch(agent, CPU)
        if step in (3, 4):
            batch["model"].reward.fill_(torch.nan)
        before = copy.deepcopy((agent.world_model.state_dict(), optimizer.state_dict()["state"]))
        steps.take(batch, Key(0, step), "all", clippings(agent), step)
        after = agent.world_model.state_dict(), optimizer.state_dict()["state"]
        same = all(torch.equal(before[0][name], after[0][name]) for name in before[0])
        if before[1]:
            same &= all(torch.equal(before[1][i][n], after[1][i][n]) for i in before[1] for n in before[1][i])
        assert same == (step in (3, 4)), step
    assert steps.broken() == (2, ["model"], 3)
    assert steps.broken() is None


def test_kinds_of_steps_have_graphs_of_their_own() -> None:
    agent = make("MOTO")
    steps = CapturedStep(agent, agent.configure_optimizers(), CPU)
    batch = random_batch(agent, CPU)
    half = {name: part.map(lambda x: x[:2]) for name, part in batch.items()}
    model = [clipping for clipping in clippings(agent) if clipping.name == "model"]
    actor = copy.deepcopy(agent.actor.state_dict())
    steps.take(batch, Key(0, 1), "model", model, 1)
    assert all(torch.equal(actor[name], agent.actor.state_dict()[name]) for name in actor)
    for step, given in ((2, batch), (3, half), (4, batch), (5, batch), (6, half)):
        steps.take(given, Key(0, step), "all", clippings(agent), step)
    # The model alone, two shapes, and the copy of the critics at step 5.
    assert len(steps._kinds) == 4
    assert steps.warm(half, "all", clippings(agent), 6)
    third = {name: part.map(lambda x: x[:1]) for name, part in batch.items()}
    assert [steps.warm(third, "all", clippings(agent), 6) for _ in range(5)] == [False, False, False, True, True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", AGENTS)
def test_graphs_on_a_gpu(name: str, half: bool) -> None:
    """Losses of both forms, side by side; sums in another order make weights drift apart, so not for long."""
    device = torch.device("cuda")
    eager = make(name).to(device)
    captured = copy.deepcopy(eager)
    if hasattr(eager, "replay"):
        captured.replay = eager.replay
    optimizers = eager.configure_optimizers(), captured.configure_optimizers()
    steps = CapturedStep(captured, optimizers[1], device)
    autocast = partial(torch.autocast, "cuda", torch.bfloat16, enabled=half)
    for step in range(1, 13):
        batch, key = random_batch(eager, device), Key(3, step).fold(7)
        with autocast():
            losses, _ = eager.losses(batch, key)
        if step <= WARM_UP:
            captured.load_state_dict(eager.state_dict())
            eager_step(captured, optimizers[1], batch, key, step)
        else:
            outcome = steps.take(batch, key, "all", clippings(captured), step, autocast=autocast)
            for loss, value in losses.items():
                torch.testing.assert_close(outcome.losses[loss], value.detach(), atol=5e-2, rtol=5e-2)
        eager.load_state_dict(captured.state_dict())
    assert steps.broken() is None


# Whole runs.


def figures(run: Path) -> list[dict[str, str]]:
    """The losses and norms that were logged."""
    (path,) = run.glob("csv/**/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if re.match(r"(model|critic|actor|grad_norm|imagined|td|loss)", name)]
    assert len(names) > 5
    return [{"step": row["step"], **{name: row[name] for name in names}} for row in rows if row["loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["MOTO", "LOMPO", "SAC"])
def test_a_captured_run_is_the_eager_one_also_when_killed_and_resumed(
    agent: str, reach_dataset: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--actor_gradients_every", "7")
    record = ("--trainer.callbacks+=recorder.RecordSteps",)
    always = ("--trainer.log_every_n_steps", "1")
    eager = fit(tmp_path / "eager", *data, *always, agent=agent)
    assert eager.returncode == 0, eager.stderr
    captured = fit(tmp_path / "captured", *data, *record, *always, agent=agent)
    assert captured.returncode == 0, captured.stderr
    assert "steps are CUDA graphs" in captured.stdout + captured.stderr
    (replayed,) = re.findall(r"(\d+) steps were replayed", captured.stdout)
    assert 20 < int(replayed) < 40
    assert_same_end(tmp_path / "eager", tmp_path / "captured")
    assert figures(tmp_path / "eager") == figures(tmp_path / "captured")
    seldom = ("--trainer.log_every_n_steps", "0")  # which changes nothing but what is written
    killed = fit(tmp_path / "run", *data, *record, *fault(33), *seldom, agent=agent)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 0 < final(tmp_path / "run")["global_step"] < 40
    resumed = fit(tmp_path / "run", *data, *record, *seldom, agent=agent)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(tmp_path / "eager", tmp_path / "run")


@pytest.mark.parametrize(
    ("callback", "watches"),
    [
        (L.Callback(), False),
        (LambdaCallback(on_train_start=print), False),
        (Watches(), True),
        (LambdaCallback(on_after_backward=print), True),
    ],
)
def test_a_callback_that_watches_keeps_steps_eager(callback: L.Callback, watches: bool, tmp_path: Path) -> None:
    trainer = L.Trainer(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, callbacks=[callback])
    agent = SimpleNamespace(trainer=trainer, device=CPU)
    with patch.object(capture, "DEVICES", ["cpu"]):
        reason = capture._why_eager(agent)
    assert reason == (f"{type(callback).__name__} looks at each step's backward pass" if watches else None)


@pytest.mark.slow
def test_what_keeps_steps_eager_is_said(reach_dataset: Path, tmp_path: Path) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.online_steps", "0")
    record = ("--trainer.callbacks+=recorder.RecordSteps",)
    refused = fit(tmp_path / "cpu", *data, "--capture", "true")
    assert (
        refused.returncode == 2
        and "capture: found true" in refused.stderr
        and "cpu has no CUDA graphs" in refused.stderr
    )
    watched = fit(tmp_path / "watched", *data, *record, "--trainer.callbacks+=recorder.Watches")
    assert watched.returncode == 0, watched.stderr
    assert "Watches looks at each step's backward pass" in watched.stdout + watched.stderr
    assert "0 steps were replayed" in watched.stdout
    off = fit(tmp_path / "off", *data, *record, "--capture", "false")
    assert off.returncode == 0, off.stderr
    assert "0 steps were replayed" in off.stdout and "CUDA graphs" not in off.stdout + off.stderr
