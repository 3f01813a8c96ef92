"""Agents from checkpoints, for analyses: without a trainer, a data module or an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

import moto_pl.agents as agents
from moto_pl.checkpoints import load_checkpoint
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError

from .base import Agent
from .description import observation_of, scale_of
from .earlier import complete


def build_agent(
    settings: dict[str, Any],
    action_size: int,
    observation: Observation | None = None,
    action_scale: ActionScale | None = None,
) -> Agent:
    """The agent that a configuration's ``model`` describes (``class_path``, ``init_args``), with its networks.

    Args:
        settings: the configuration.
        action_size: A.
        observation: what it sees; None is the image alone.
        action_scale: what its actions stand for; None: themselves.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Agent, "model")
    agent: Agent = parser.instantiate(parser.parse_object({"model": settings})).model
    agent.action_size, agent.action_scale, agent.observation = action_size, action_scale, observation or Observation()
    agent.build(action_size)
    return agent


def load_agent(path: Path, device: str | torch.device = "cpu") -> Agent:
    """The agent of a checkpoint that ``moto fit`` wrote, in evaluation mode; its averaged weights, if it has them.

    Args:
        path: the checkpoint. It is read as tensors and plain values; no code in it runs.
        device: where to put it.

    Raises:
        SettingError: where the file is no checkpoint, or its agent is none of ours.
    """
    try:
        checkpoint = load_checkpoint(path)
        description, weights = checkpoint["agent"], checkpoint["state_dict"]
        description = complete(description)
        name, settings, action_size = (description[key] for key in ("class_path", "init_args", "action_size"))
        observation, scale = observation_of(description), scale_of(description)
    except SettingError as error:
        raise SettingError("--ckpt", error.found, f"It is no checkpoint of a run: {error.fix}") from None
    except (KeyError, TypeError):
        raise SettingError("--ckpt", f"{path}, without an agent", "Give a checkpoint that moto fit wrote.") from None
    ours = {f"{kind.__module__}.{kind.__qualname__}" for kind in vars(agents).values() if isinstance(kind, type)}
    if name not in ours:
        raise SettingError("--ckpt", f"an agent {name} in {path}", "Give a checkpoint of an agent of moto_pl.")
    try:
        agent = build_agent({"class_path": name, "init_args": settings}, int(action_size), observation, scale)
        agent.load_state_dict({**weights, **checkpoint.get("average", {})})
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingError("--ckpt", path, f"Its agent cannot be built again ({reason}).") from None
    agent.loaded_step = int(checkpoint["global_step"])
    return agent.to(device).eval().requires_grad_(False)
