"""DreamerV2: MOTO without what makes it MOTO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moto_pl.agents import DreamerV2
from moto_pl.agents.description import check_same_agent
from moto_pl.agents.loading import load_agent
from moto_pl.agents.settings import BatchConfig, ImaginationConfig
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.training.configs import lineage


def tiny() -> DreamerV2:
    model = WorldModelConfig(
        deter=8, hidden=8, stoch=2, classes=2, ensemble=2, encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2)
    )
    behaviour = ImaginationConfig(
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


#: What a checkpoint or a config.yaml held before DreamerV2 had settings of its own.
EARLIER = {
    **{"critic": "v", "critics": 5, "actor_value": "min", "disagreement": "mean", "disagreement_scale": 0.0},
    **{"clone_scale": 0.0, "clone_filter": "auto", "clone_top": 0.1, "clone_limit": 1.0},
}


def test_a_checkpoint_with_motos_settings_is_the_same_agents(tmp_path: Path) -> None:
    agent = tiny()
    ours = agent.description()
    settings = {**ours["init_args"], "behaviour": {**ours["init_args"]["behaviour"], **EARLIER}}
    description = {**ours, "init_args": settings}
    check_same_agent(description, ours)
    torch.save({"agent": description, "state_dict": agent.state_dict(), "global_step": 7}, tmp_path / "last.ckpt")
    loaded = load_agent(tmp_path / "last.ckpt")
    assert isinstance(loaded, DreamerV2) and loaded.loaded_step == 7 and loaded.config == agent.config
    for name, weight in agent.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])
    settings["behaviour"]["horizon"] = 4
    with pytest.raises(SettingError, match="behaviour.horizon: 4 -> 3"):
        check_same_agent(description, ours)


@pytest.mark.parametrize("name", ["DreamerV2", "moto_pl.agents.DreamerV2", "moto_pl.agents.dreamer.DreamerV2"])
def test_motos_settings_in_a_configuration_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for behaviour, wrong in ((EARLIER, ", ".join(EARLIER)), ({"horizon": 3, "clone_scale": 10.0}, "clone_scale")):
        path.write_text(yaml.safe_dump({"model": {"class_path": name, "init_args": {"behaviour": behaviour}}}))
        with pytest.raises(SettingError, match=f"^model.init_args.behaviour: found {wrong} in .*Delete {wrong}, which"):
            lineage(path)


@pytest.mark.parametrize(
    "model",
    [
        {"class_path": "moto_pl.agents.MOTO", "init_args": {"behaviour": EARLIER}},
        {"class_path": "moto_pl.agents.DreamerV2", "init_args": {"behaviour": {"horizon": 3}}},
        {"class_path": "moto_pl.agents.DreamerV2", "init_args": {"behaviour": None}},
        {"class_path": "moto_pl.agents.DreamerV2"},
        "moto_pl.agents.DreamerV2",
        None,
    ],
)
def test_other_configurations_are_not_refused(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model}))
    assert [config.path for config in lineage(path)] == [path]
