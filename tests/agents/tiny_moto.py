"""A tiny MOTO and batches for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from moto_pl.agents import MOTO
from moto_pl.agents.settings import BehaviourConfig
from moto_pl.ops import Key
from moto_pl.replay.sampler import SequenceBatch
from tiny_model import TINY_MODEL

TINY = BehaviourConfig(
    horizon=4,
    gamma=0.9,
    lambda_=0.7,
    disagreement_scale=3.0,
    critics=3,
    critic_layers=1,
    critic_units=7,
    actor_layers=1,
    actor_units=7,
    entropy_scale=0.05,
    target_every=5,
    imagine_rows=None,
    clone_scale=2.0,
)
KEY = Key(3, 8)
LATENTS = pytest.mark.parametrize("latent", ["categorical", "gaussian"])


def make(model: dict[str, Any] | None = None, seed: int = 0, **behaviour: Any) -> MOTO:
    """A tiny agent whose networks, targets included, all differ."""
    agent = MOTO(
        dataclasses.replace(TINY_MODEL, **(model or {})),
        dataclasses.replace(TINY, **behaviour),
        ops="reference",
        seed=seed,
    )
    agent.action_size = 2
    torch.manual_seed(seed)
    agent.build(2)
    with torch.no_grad():
        for p in (*agent.world_model.rssm.parameters(), *agent.world_model.reward.parameters()):
            p.add_(0.3 * torch.randn_like(p))
        for p in (*agent.actor.parameters(), *agent.critic.parameters()):
            p.copy_(0.4 * torch.randn_like(p))
    return agent


def sequences(size: int = 3, length: int = 5, seed: int = 1) -> SequenceBatch:
    """Random rows; every second sequence is the beginning of an episode."""
    generator = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(size, length, dtype=torch.bool)
    is_first[::2, 0] = True
    is_terminal = torch.zeros(size, length, dtype=torch.bool)
    is_terminal[-1, -1] = True
    starts = is_first.unsqueeze(-1)
    return SequenceBatch(
        torch.randint(0, 256, (size, length, 3, 64, 64), generator=generator, dtype=torch.uint8),
        (2 * torch.rand(size, length, 2, generator=generator) - 1).masked_fill(starts, 0),
        torch.randn(size, length, generator=generator).masked_fill(is_first, 0),
        is_first,
        is_terminal,
    )


def batches() -> dict[str, SequenceBatch]:
    return {"model": sequences(seed=1), "agent": sequences(seed=2), "clone": sequences(seed=3)}


def moved(module: nn.Module) -> bool:
    return any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
