"""Episodes for analyses: from a dataset, or rolled with the checkpoint's own policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from moto_pl.agents.base import Agent
from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.checks import EpisodeLimit
from moto_pl.envs.observation import IMAGE_ALONE, IMAGE_SIZE
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.report.records import read_run
from moto_pl.rollout.policy import ActMode
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import TEST_SEEDS, roll_episodes
from moto_pl.training.ingest import longest_demonstration


def load_episodes(name: str, count: int, least_steps: int = 1, agent: Agent | None = None) -> list[Episode]:
    """The first ``count`` episodes of a dataset, at least ``least_steps`` long, as an agent sees them and acts.

    Args:
        name: of the dataset.
        count: episodes.
        least_steps: of each.
        agent: whose observations and scale of actions these are; None: frames, and the dataset's own Box of actions.

    Raises:
        SettingError: where there is no such dataset, its images are of another size, or an episode is too short.
    """
    wanted, size = (
        (IMAGE_ALONE, IMAGE_SIZE) if agent is None else (agent.observation.config, agent.observation.image_size)
    )
    reader = open_dataset(name, wanted=wanted, image_size=size)
    if agent is not None and agent.action_scale is not None:
        reader.scale, reader.clips = agent.action_scale, True
    reader.check(image_size=size)
    episodes = [reader[index] for index in range(min(count, len(reader)))]
    short = [episode.length for episode in episodes if episode.length < least_steps]
    if short:
        raise SettingError("--episodes", f"{name}, with an episode of {short[0]} steps", f"Give {least_steps} or more.")
    return episodes


def roll_own(
    agent: Agent,
    run: Path,
    count: int,
    mode: ActMode = "mode",
    first_seed: int = TEST_SEEDS,
    setting: str = "--ckpt",
) -> list[Episode]:
    """Rolls the policy in the run's environment.

    Args:
        agent: acts.
        run: its run, whose ``config.yaml`` names the environment.
        count: episodes.
        mode: the policy's mode, or draws from it.
        first_seed: of the environment in the first episode; test seeds are never trained on.
        setting: what the user calls the checkpoint.
    """
    env, options, repeat = environment_of(run, setting)
    data = read_run(run).setting("data")
    limit = EpisodeLimit(data.get("max_episode_steps"), longest_demonstration(run / "replay"), repeat)
    timeout_s, seen = float(data.get("worker_timeout_s") or 60), agent.observation
    with EnvPool(env, options, 0, timeout_s, limit, seen.image_size, seen.config, agent.action_scale, repeat) as pool:
        return [roll_episodes(pool, agent, [first_seed + i], mode, Key(agent.seed, i))[0] for i in range(count)]


class RunEnvironment(NamedTuple):
    """What a run's episodes come from.

    Attributes:
        env: the environment's id.
        options: its arguments.
        action_repeat: its steps for each action; 1 in runs of earlier versions.
    """

    env: str
    options: dict[str, Any]
    action_repeat: int = 1


def environment_of(run: Path, setting: str = "--ckpt") -> RunEnvironment:
    """The environment that a run's configuration names.

    Raises:
        SettingError: the run has no configuration that names one; ``setting`` is what the user calls the checkpoint.
    """
    data = read_run(run).setting("data") if (run / "config.yaml").is_file() else None
    if not isinstance(data, dict) or not data.get("env"):
        raise SettingError(setting, run, "Give a checkpoint in its run's directory: config.yaml is missing.")
    return RunEnvironment(str(data["env"]), dict(data.get("env_options") or {}), int(data.get("action_repeat") or 1))


def model_based(agent: Agent) -> ModelBasedAgent:
    """The same agent; refuses one without a world model."""
    if not isinstance(agent, ModelBasedAgent):
        raise SettingError("--ckpt", f"an agent {type(agent).__name__}", "Give one of an agent with a world model.")
    return agent
