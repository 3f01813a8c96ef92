"""Tiny agents of every kind, and checkpoints of them without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from moto_pl.agents.base import Agent
from moto_pl.agents.loading import build_agent
from moto_pl.envs.observation import Observation
from runs import AGENTS


def make(
    name: str, actions: int = 2, seed: int = 0, observation: Observation | None = None, **settings: dict[str, Any]
) -> Agent:
    """A tiny agent of the debug configuration's kind, whose policy's weights are large enough to clip.

    ``settings`` are added to its groups of settings, such as ``world_model={"latent": "gaussian"}``.
    """
    sizes: dict[str, Any] = {}
    for setting, value in AGENTS[name].items():
        group, key = setting.split(".")
        if group not in ("optim", "batch"):
            sizes.setdefault(group, {})[key] = yaml.safe_load(value)
    if name in ("MOTO", "DreamerV2"):
        small = {"encoder_channels": [4, 4, 4, 4], "decoder_channels": [4, 4, 4], "mlp_layers": 0}
        sizes["world_model"] = {"deter": 8, "hidden": 8, "stoch": 2, "classes": 2, "ensemble": 2, **small}
    for group, values in settings.items():
        sizes[group] = {**sizes.get(group, {}), **values}
    torch.manual_seed(seed)
    agent = build_agent({"class_path": f"moto_pl.agents.{name}", "init_args": sizes}, actions, observation)
    return agent.eval()


def save(agent: Agent, path: Path, /, **further: Any) -> Path:
    """A checkpoint of an agent as it is, with the content that ``moto fit`` would write to act from."""
    checkpoint = {"state_dict": agent.state_dict(), "global_step": 7, "agent": agent.description(), "average": {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**checkpoint, **further}, path)
    return path
