"""What is said of the actor's gradient is what its parts' gradients are, and it changes nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from moto_pl.agents.base import ParamGroup
from moto_pl.callbacks.gradients import ActorGradients
from moto_pl.cli import main
from moto_pl.errors import SettingError
from runs import CONFIGS, assert_same_weights


class TwoPulls:
    """An agent whose actor is three weights, pulled at by two losses with known gradients."""

    def __init__(self) -> None:
        self.actor = nn.Linear(3, 1, bias=False)
        weight = self.actor.weight
        pulls = {"value": torch.tensor([[3.0, 4.0, 0.0]]), "clone": torch.tensor([[0.0, -20.0, 0.0]])}
        self.step_losses = {f"actor/{name}": (weight * pull).sum() for name, pull in pulls.items()}
        self.step_losses |= {"critic/td": (weight * 100).sum(), "actor/constant": torch.ones(())}
        self.logged: dict[str, float] = {}

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup("actor", (self.actor,), 1e-3, 1.0)]

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        self.logged |= figures


@pytest.mark.parametrize(("every", "step", "due"), [(5, 0, True), (5, 5, True), (5, 4, False), (0, 0, False)])
def test_norms_and_cosines(every: int, step: int, due: bool) -> None:
    agent: Any = TwoPulls()
    trainer: Any = SimpleNamespace(global_step=step, loggers=[agent])
    total = sum(agent.step_losses.values())
    ActorGradients(every).on_before_backward(trainer, agent, total)
    wanted = {
        "actor_gradient/value": 5.0,
        "actor_gradient/clone": 20.0,
        "actor_gradient/cosine/value-clone": -0.8,
    }
    assert agent.logged == (pytest.approx(wanted) if due else {})
    assert agent.actor.weight.grad is None
    total.backward()  # the step's own pass still finds its graph


def test_a_cadence_below_zero_is_refused() -> None:
    with pytest.raises(SettingError, match="actor_gradients_every"):
        ActorGradients(-1)


@pytest.mark.slow
def test_a_run_is_the_same_with_and_without(tmp_path: Path, reach_dataset: Path) -> None:
    for every in (0, 2):
        arguments = [
            *("fit", "--config", str(CONFIGS / "debug.yaml"), "--trainer.default_root_dir", str(tmp_path / str(every))),
            *("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.env_workers", "0"),
            *("--data.offline_steps", "4", "--data.offline_round_steps", "4", "--data.online_steps", "5"),
            *("--data.eval_episodes", "0", "--actor_gradients_every", str(every)),
        ]
        assert main(arguments) == 0
    assert_same_weights(tmp_path / "0", tmp_path / "2")
    rows = list(csv.DictReader(open(tmp_path / "2/csv/version_0/metrics.csv")))
    measured = [row["step"] for row in rows if row.get("actor_gradient/clone")]
    assert measured == ["0", "2", "4", "6", "8"]
    cosines = [float(row[name]) for row in rows if row.get(name := "actor_gradient/cosine/value-clone")]
    assert len(cosines) == 5 and all(-1 <= cosine <= 1 for cosine in cosines)
    shares = [float(row["batch/model_demonstrations"]) for row in rows if row.get("batch/model_demonstrations")]
    assert shares[0] == 1.0 and shares[-1] == pytest.approx(10 / 11)
