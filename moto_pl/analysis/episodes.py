"""Episodes for analyses: from a dataset, or rolled with the checkpoint's own policy."""

from __future__ import annotations

from pathlib import Path

import yaml

from moto_pl.agents.base import Agent
from moto_pl.data.collect import TEST_SEEDS, roll_episodes
from moto_pl.data.minari_io import open_dataset
from moto_pl.envs.workers import EnvPool
from moto_pl.errors import SettingError
from moto_pl.nn import WorldModel
from moto_pl.nn.image import IMAGE_SIZE
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode


def load_episodes(name: str, count: int, least_steps: int = 1) -> list[Episode]:
    """The first ``count`` episodes of a dataset, at least ``least_steps`` long.

    Raises:
        SettingError: where there is no such dataset, its images are of another size, or an episode is too short.
    """
    reader = open_dataset(name)
    reader.check(image_size=IMAGE_SIZE)
    episodes = [reader[index] for index in range(min(count, len(reader)))]
    short = [episode.length for episode in episodes if episode.length < least_steps]
    if short:
        raise SettingError("--episodes", f"{name}, with an episode of {short[0]} steps", f"Give {least_steps} or more.")
    return episodes


def roll_own(agent: Agent, run: Path, count: int) -> list[Episode]:
    """Rolls the policy's mode in the run's environment, on test seeds.

    Args:
        agent: acts.
        run: its run, whose ``config.yaml`` names the environment.
        count: episodes.
    """
    try:
        data = yaml.safe_load((run / "config.yaml").read_text())["data"]
        pool = EnvPool(str(data["env"]), data.get("env_options") or {}, 0, float(data.get("worker_timeout_s", 60)))
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise SettingError("--ckpt", run, "Give a checkpoint in its run's directory: config.yaml is missing.") from None
    try:
        return [roll_episodes(pool, agent, [TEST_SEEDS + i], "mode", Key(agent.seed, i))[0] for i in range(count)]
    finally:
        pool.close()


def world_model_of(agent: Agent) -> WorldModel:
    """The agent's world model; refuses an agent without one."""
    model = getattr(agent, "world_model", None)
    if not isinstance(model, WorldModel):
        raise SettingError("--ckpt", f"an agent {type(agent).__name__}", "Give one of an agent with a world model.")
    return model
