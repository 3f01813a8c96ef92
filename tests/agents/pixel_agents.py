"""Tiny model-free agents and batches."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from moto_pl.agents import BC, Agent
from moto_pl.agents.model_free import ModelFreeAgent, PixelConfig, TDConfig
from moto_pl.envs.observation import Observation
from moto_pl.replay.sampler import SequenceBatch

A = TypeVar("A", bound=ModelFreeAgent)


def tiny(
    kind: type[A],
    frame_stack: int = 2,
    shift: int = 0,
    pixels: dict[str, Any] | None = None,
    td: dict[str, Any] | None = None,
    observation: Observation | None = None,
    **settings: Any,
) -> A:
    """An agent of this kind with actions of two dimensions; ``pixels`` and ``td`` are added to its small sizes."""
    sizes = PixelConfig(frame_stack, shift, channels=(4, 4, 4, 4), latent=6, layers=1, units=8, **(pixels or {}))
    values = {} if kind is BC else {"gamma": 0.9, "tau": 0.25}
    agent = kind(pixels=sizes, td=TDConfig(batch_size=5, **values, **(td or {})), **settings)
    agent.action_size, agent.observation = 2, observation or Observation()
    torch.manual_seed(0)
    agent.build(2)
    return agent


def batch(size: int = 5, frame_stack: int = 2, actions: int = 2, vector: int = 0) -> dict[str, SequenceBatch]:
    """Random rows, with state vectors of ``vector`` numbers; the second sequence ends its episode."""
    generator = torch.Generator().manual_seed(0)
    rows = frame_stack + 1
    terminal = torch.zeros(size, rows, dtype=torch.bool)
    terminal[1, -1] = True
    return {
        "transitions": SequenceBatch(
            image=torch.randint(0, 256, (size, rows, 3, 64, 64), dtype=torch.uint8, generator=generator),
            action=torch.rand(size, rows, actions, generator=generator) * 1.8 - 0.9,
            reward=torch.rand(size, rows, generator=generator),
            is_first=torch.zeros(size, rows, dtype=torch.bool),
            is_terminal=terminal,
            vector=torch.randn(size, rows, vector, generator=generator) if vector else None,
        )
    }


def moved_by(agent: Agent, loss: Tensor) -> set[str]:
    """The children whose parameters a loss has a gradient for; a critic's parts and a head's encoder by themselves."""
    agent.zero_grad()
    loss.backward(retain_graph=True)
    moved = {name for name, p in agent.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    parts = (name.split(".") for name in moved)
    return {".".join(part[:2]) if part[0] == "critic" or part[1] == "encoder" else part[0] for part in parts}
