"""What is said of a run while it trains."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moto_pl.callbacks.progress import RunProgress


def test_an_evaluation_says_whether_the_policy_stays_in_success(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"success": 0.55, "success_last": 0.1, "success_steps": 4.7, "return": 6.25}
    agent: Any = SimpleNamespace(trained_steps=300, schedule=SimpleNamespace(phase=lambda step: "pretrained"))
    logged = {f"eval/{name}": torch.tensor(value) for name, value in metrics.items()}
    trainer: Any = SimpleNamespace(callback_metrics=logged)
    RunProgress().on_validation_end(trainer, agent)
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "evaluation after 300 steps (pretrained): success 0.55, at the last step 0.10, 4.7 steps in success, return 6.2"
    )


class Metrics(dict[str, torch.Tensor]):
    """A trainer's figures, which are read back from a device when somebody looks."""

    looks = 0

    def __contains__(self, name: object) -> bool:
        Metrics.looks += name == "loss"
        return super().__contains__(name)


def test_a_bar_looks_at_figures_no_oftener_than_it_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(Metrics, "looks", 0)
    schedule = SimpleNamespace(total_steps=50, describe_step=lambda step: "offline")
    agent: Any = SimpleNamespace(schedule=schedule)
    monkeypatch.setattr("moto_pl.callbacks.progress.run_agent", lambda module: module)
    trainer: Any = SimpleNamespace(global_step=0, progress_bar_metrics=Metrics(loss=torch.tensor(0.25)))
    bar = RunProgress()
    bar.on_train_start(trainer, agent)
    assert bar._progress is not None and Metrics.looks == 1
    for step in range(1, 50):
        trainer.global_step, clock[0] = step, clock[0] + 0.03
        bar.on_train_batch_end(trainer, agent, None, None, 0)
    assert Metrics.looks == 1 + 49 // 4  # each fourth is the first that is 0.1 s later
    task = bar._progress.tasks[0]
    assert task.completed == 48
    trainer.global_step = 50
    bar.on_train_end(trainer, agent)
    assert task.completed == 50 and task.fields["figures"] == "loss 0.25" and bar._progress is None


def test_without_a_terminal_a_line_is_printed_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    schedule = SimpleNamespace(total_steps=9, describe_step=lambda step: "offline")
    agent: Any = SimpleNamespace(schedule=schedule)
    monkeypatch.setattr("moto_pl.callbacks.progress.run_agent", lambda module: module)
    trainer: Any = SimpleNamespace(global_step=0, progress_bar_metrics={"loss": torch.tensor(0.25)})
    bar = RunProgress(interval_s=30.0)
    for step in range(1, 10):
        trainer.global_step, clock[0] = step, clock[0] + 10
        bar.on_train_batch_end(trainer, agent, None, None, 0)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["1/9", "4/9", "7/9"]
