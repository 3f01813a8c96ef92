"""DreamerV2: MOTO without what makes it MOTO."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moto_pl.agents import DreamerV2
from moto_pl.agents.dreamer import DreamerBehaviourConfig
from moto_pl.agents.settings import BatchConfig
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay.sampler import SequenceBatch


def tiny() -> DreamerV2:
    model = WorldModelConfig(
        deter=8, hidden=8, stoch=2, classes=2, ensemble=2, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2)
    )
    behaviour = DreamerBehaviourConfig(
        horizon=3, critic_layers=1, critic_units=8, actor_layers=1, actor_units=8, imagine_rows=4
    )
    agent = DreamerV2(model, behaviour, BatchConfig(2, 5, 2, 4, 2, 4))
    agent.action_size = 2
    torch.manual_seed(0)
    agent.build(2)
    return agent


def batch(agent: DreamerV2) -> dict[str, SequenceBatch]:
    out = {}
    for name, part in agent.parts().items():
        shape = (part.size, part.length)
        first = torch.zeros(shape, dtype=torch.bool)
        image = torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8)
        out[name] = SequenceBatch(image, torch.rand(*shape, 2), torch.rand(shape), first, first)
    return out


def test_nothing_is_cloned_or_penalised() -> None:
    agent = tiny()
    assert set(agent.parts()) == {"model", "agent"}
    losses, metrics = agent.losses(batch(agent), Key(0, 0))
    assert {name for name in losses if not name.startswith("model/")} == {
        "critic/model",
        "actor/value",
        "actor/entropy_bonus",
    }
    assert metrics["imagined/penalty"] == 0


@pytest.mark.parametrize(("loss", "moved"), [("actor/value", "actor"), ("critic/model", "critic")])
def test_what_each_loss_moves(loss: str, moved: str) -> None:
    agent = tiny()
    agent.losses(batch(agent), Key(0, 0))[0][loss].backward()
    found = {name.split(".")[0] for name, p in agent.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == {moved}


@pytest.mark.parametrize("wrong", [{"critic": "q_ensemble"}, {"clone_scale": 1.0}, {"disagreement_scale": 10.0}])
def test_what_is_not_dreamers_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"^behaviour.{next(iter(wrong))}: found.*MOTO"):
        DreamerBehaviourConfig(**wrong)
