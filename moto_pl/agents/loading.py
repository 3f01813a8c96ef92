"""Agents and policies from checkpoints: without a trainer, a data module or an environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

import moto_pl.agents as agents
from moto_pl.checkpoints import load_checkpoint
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.rollout.policy import ActMode, Policy

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


def load_policy(
    checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu", mode: ActMode = "mode", seed: int = 0
) -> Policy:
    """The policy of a checkpoint that ``moto fit`` wrote, with the weights that act: averaged ones, if it has them.

    Call ``reset()`` as an episode begins and ``act(observation)`` at each of its steps; see :class:`Policy`.

    Args:
        checkpoint: the file. It is read as tensors and plain values; no code in it runs.
        device: where it computes, such as ``cpu`` or ``cuda``.
        mode: ``mode`` for the likeliest action, ``sample`` for a draw.
        seed: names the draws.

    Raises:
        SettingError: where the file is no whole checkpoint, or its agent is none of ours.
    """
    return Policy(load_agent(Path(checkpoint), device, "checkpoint"), mode, Key(seed, 0))


def load_agent(path: Path, device: str | torch.device = "cpu", setting: str = "--ckpt") -> Agent:
    """The agent of a checkpoint that ``moto fit`` wrote, in evaluation mode; its averaged weights, if it has them.

    Args:
        path: the checkpoint. It is read as tensors and plain values; no code in it runs.
        device: where to put it.
        setting: what the user calls the checkpoint.

    Raises:
        SettingError: where the file is no checkpoint, its agent is none of ours, or there is no such device.
    """
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise SettingError("device", repr(device), f"Use cpu, or a GPU that is there ({_line(error)}).") from None
    try:
        checkpoint = load_checkpoint(path)
        description, weights = checkpoint["agent"], checkpoint["state_dict"]
        description = complete(description)
        name, settings, action_size = (description[key] for key in ("class_path", "init_args", "action_size"))
        observation, scale = observation_of(description), scale_of(description)
    except SettingError as error:
        raise SettingError(setting, error.found, f"It is no checkpoint of a run: {error.fix}") from None
    except (KeyError, TypeError):
        raise SettingError(setting, f"{path}, without an agent", "Give a checkpoint that moto fit wrote.") from None
    ours = {f"{kind.__module__}.{kind.__qualname__}" for kind in vars(agents).values() if isinstance(kind, type)}
    if name not in ours:
        raise SettingError(setting, f"an agent {name} in {path}", "Give a checkpoint of an agent of moto_pl.")
    try:
        agent = build_agent({"class_path": name, "init_args": settings}, int(action_size), observation, scale)
        agent.load_state_dict({**weights, **checkpoint.get("average", {})})
    except Exception as error:
        raise SettingError(setting, path, f"Its agent cannot be built again ({_line(error)}).") from None
    agent.loaded_step = int(checkpoint["global_step"])
    return agent.to(place).eval().requires_grad_(False)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
