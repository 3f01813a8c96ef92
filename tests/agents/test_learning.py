"""Every agent learns a small task from pixels; each bar is far from what it had before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import Act, aimless, build, expert, fill, mean_return, mixed, returns, scripted, train, unsure

from moto_pl.agents import BC, COMBO, CQL, IQL, LOMPO, SAC, Agent, DreamerV2
from moto_pl.agents.combo import LatentConservatismConfig
from moto_pl.agents.cql import ConservatismConfig
from moto_pl.agents.iql import AdvantageConfig
from moto_pl.agents.lompo import PenaltyConfig
from moto_pl.agents.model_free import PixelConfig, TDConfig
from moto_pl.agents.sac import EntropyConfig
from moto_pl.agents.settings import (
    BatchConfig,
    ImaginationConfig,
    LatentBatchConfig,
    LatentBehaviourConfig,
    LatentModelConfig,
    LatentOptimConfig,
    OptimConfig,
)
from moto_pl.nn import WorldModelConfig

pytestmark = pytest.mark.slow

EXPERTS = 16.5  # return of the scripted actions; standing still earns about 6.5

PIXELS = PixelConfig(frame_stack=1, shift=4, channels=(8, 16, 16, 16), units=64)
CLONING = TDConfig(batch_size=64, lr=1e-3)
TD = TDConfig(batch_size=64, lr=1e-3, gamma=0.9, tau=0.02)


def test_bc_reproduces_an_expert(tmp_path: Path) -> None:
    agent = build(BC(PIXELS, CLONING))
    untrained = mean_return(agent)
    train(agent, fill(tmp_path / "store", mixed(0, 60, expert, noise=0.0)), 500)
    held_out = [scripted(10_000 + seed, expert) for seed in range(10)]
    image = torch.from_numpy(np.concatenate([e.image[:-1] for e in held_out])).permute(0, 3, 1, 2).contiguous()
    action = torch.from_numpy(np.concatenate([e.action for e in held_out]))
    with torch.no_grad():
        error = (agent.policy(image).mode() - action).abs().mean()
    assert error < 0.4 * action.abs().mean()  # of one that always stands still
    assert mean_return(agent) > untrained + 0.6 * (EXPERTS - untrained)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What BC makes of experts and of those who cannot decide."""
    agent = build(BC(PIXELS, CLONING))
    train(agent, fill(tmp_path_factory.mktemp("bc") / "store", mixed(0, 60, expert, unsure)), 300)
    return mean_return(agent)


@pytest.mark.parametrize(
    "agent",
    [
        IQL(PIXELS, TD, advantage=AdvantageConfig(expectile=0.8, temperature=10.0)),
        CQL(PIXELS, TD, conservatism=ConservatismConfig(scale=1.0, actions=4)),
    ],
    ids=["IQL", "CQL"],
)
def test_values_beat_cloning_where_the_data_is_mixed(agent: Agent, cloned: float, tmp_path: Path) -> None:
    train(build(agent), fill(tmp_path / "store", mixed(0, 60, expert, unsure)), 300)
    assert mean_return(agent) > cloned + 3


def test_sac_improves_online(tmp_path: Path) -> None:
    agent = build(SAC(PIXELS, TD, EntropyConfig(temperature=0.1, backup=False)))
    store = fill(tmp_path / "store", mixed(0, 10, aimless))
    untrained = mean_return(agent)
    train(agent, store, 500, updates_per_episode=10)
    assert len(store) == 60
    assert mean_return(agent) > untrained + 0.6 * (EXPERTS - untrained)


MODEL: dict[str, Any] = {
    **{"deter": 32, "hidden": 32, "stoch": 8, "ensemble": 3, "encoder_channels": (8, 16, 16, 16)},
    **{"decoder_channels": (16, 8, 4), "mlp_layers": 0, "head_layers": 1, "head_units": 32},
    **{"kl_scale": 0.1, "reward_scale": 100.0},
}
LATENT: tuple[Any, ...] = (
    LatentModelConfig(**MODEL),
    LatentBehaviourConfig(gamma=0.9, tau=0.05, imagine_rows=256, critic_units=64, actor_units=64),
    LatentBatchConfig(8, 10, 64, 32),
    LatentOptimConfig(model_lr=3e-3, actor_lr=1e-3, critic_lr=1e-3),
)
DREAMER = ImaginationConfig(
    **{"horizon": 8, "gamma": 0.9, "critic_layers": 1, "critic_units": 64, "actor_layers": 1, "actor_units": 64},
    imagine_rows=128,
    target_every=20,
    entropy_scale=1e-2,
)


@pytest.mark.parametrize(
    ("agent", "steps"),
    [
        (LOMPO(*LATENT, penalty=PenaltyConfig(scale=0.02)), 550),
        (COMBO(*LATENT, conservatism=LatentConservatismConfig(scale=0.1, actions=4)), 550),
        (
            DreamerV2(
                WorldModelConfig(classes=8, **MODEL), DREAMER, BatchConfig(8, 10, 8, 10), OptimConfig(3e-3, 1e-3, 1e-3)
            ),
            700,
        ),
    ],
    ids=["LOMPO", "COMBO", "DreamerV2"],
)
def test_a_model_raises_return_above_the_datas(agent: Agent, steps: int, tmp_path: Path) -> None:
    episodes = mixed(0, 60, unsure)
    train(build(agent), fill(tmp_path / "store", episodes), steps, model_steps=200)
    assert mean_return(agent) > returns(episodes).mean() + 3


def test_the_bars_mean_something() -> None:
    """Experts reach what they are said to; those who cannot decide do not."""

    def reached(act: Act) -> float:
        return float(returns(mixed(0, 40, act, noise=0.0)).mean())

    assert abs(reached(expert) - EXPERTS) < 1 and reached(unsure) < 7 and reached(aimless) < 7
