"""What all agents share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moto_pl.agents import MOTO
from moto_pl.agents.model_based import OptimConfig
from moto_pl.agents.moto import BehaviourConfig
from moto_pl.data.collect import roll_episodes
from moto_pl.data.schedule import Schedule
from moto_pl.errors import SettingError
from moto_pl.nn.world_model import WorldModelConfig
from moto_pl.ops import Key


def tiny(**optim: Any) -> MOTO:
    """An agent whose optimizer can be made."""
    model = WorldModelConfig(
        deter=8, hidden=8, stoch=2, classes=2, ensemble=2, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2)
    )
    agent = MOTO(model, BehaviourConfig(), optim=OptimConfig(**optim))
    agent.action_size = 2
    agent.build(2)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(schedule=Schedule(10, 20, 5, 5)))
    agent._trainer = trainer
    return agent


def test_learning_rates_fall_over_the_online_phase() -> None:
    agent = tiny(model_lr=1e-3, actor_lr=1e-4, final_lr=0.1)
    made: Any = agent.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(35):
        rates.append([group["lr"] for group in optimizer.param_groups[:2]])
        optimizer.step()
        scheduler.step()
    wanted = [1.0] * 11 + [1 - 0.9 * i / 20 for i in range(1, 21)] + [0.1] * 4
    first, second = optimizer.param_groups[0]["initial_lr"], optimizer.param_groups[1]["initial_lr"]
    assert first == 1e-3 and second in (1e-4, 8e-5)
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([[first * w, second * w] for w in wanted]))


def test_learning_rates_stay_unless_asked() -> None:
    assert isinstance(tiny().configure_optimizers(), torch.optim.AdamW)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_final_lr_is_a_share(share: float) -> None:
    with pytest.raises(SettingError, match="final_lr"):
        tiny(final_lr=share)


def test_the_average_follows_the_weights() -> None:
    agent = tiny(ema_decay=0.5)
    weight = next(agent.actor.parameters())
    expected = None
    for step in range(1, 40):
        with torch.no_grad():
            weight.fill_(float(step))
        agent._update_average(step)
        decay = min(0.5, step / (step + 10))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        with agent.acting_weights():
            torch.testing.assert_close(weight[0, 0].item(), expected)
        assert weight[0, 0].item() == step


def test_the_average_is_what_acts() -> None:
    agent = tiny(ema_decay=0.5)
    seen = []

    class Pool:
        def reset(self, seeds: list[int]) -> np.ndarray:
            seen.append(next(agent.actor.parameters()).detach().clone())
            raise KeyboardInterrupt

    before = next(agent.actor.parameters()).detach().clone()
    agent._update_average(1)
    with torch.no_grad():
        next(agent.actor.parameters()).zero_()
    with pytest.raises(KeyboardInterrupt):
        roll_episodes(Pool(), agent, [0], "mode", Key(0, 0))  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0], before)
    assert not next(agent.actor.parameters()).any()  # and the weights themselves are there again


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_ema_decay_is_a_decay(decay: float) -> None:
    with pytest.raises(SettingError, match="ema_decay"):
        tiny(ema_decay=decay)


@pytest.mark.parametrize(
    ("ops", "device", "said"), [("auto", "meta", "references imagine"), ("reference", "cpu", "references imagine")]
)
def test_a_run_says_which_operators_it_has(ops: Any, device: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("moto_pl.agents.model_based.rank_zero_info", heard.append)
    agent = tiny()
    agent.ops = ops
    agent.to(device)
    agent.on_fit_start()
    assert said in heard[0] and f"on {device}" in heard[0]
