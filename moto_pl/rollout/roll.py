"""Rolls episodes: the one loop in which a policy meets environments, which stand side by side in a pool.

A script that looks into a single environment is played by :mod:`moto_pl.rollout.play`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from moto_pl.envs.checks import KEY
from moto_pl.evaluations import EVALUATION_SEEDS as EVALUATION_SEEDS
from moto_pl.evaluations import TEST_SEEDS as TEST_SEEDS
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout.explore import NO_EXPLORATION, Exploration, Explorer
from moto_pl.rollout.play import Played, Recording
from moto_pl.rollout.policy import Acting, ActMode, Policy
from moto_pl.rollout.pool import EnvPool, WorkerRestarted


def training_seed(seed: int, index: int) -> int:
    """The environment seed of online episode ``index`` (over all ranks) of a run: in [0, 2**30)."""
    return Key(seed, index).fold(0x5EED, seed).offset % EVALUATION_SEEDS


def roll_episodes(
    pool: EnvPool,
    agent: Acting,
    seeds: Sequence[int],
    mode: ActMode,
    key: Key,
    explore: Exploration = NO_EXPLORATION,
) -> list[Episode]:
    """Rolls one episode a seed, side by side.

    An environment worker that died or hung has been replaced when we hear of it; the episodes are then rolled again
    from their seeds, which gives what they would have given.

    Args:
        pool: at least ``len(seeds)`` workers.
        agent: acts.
        seeds: one for each environment.
        mode: ``sample`` to collect, ``mode`` to evaluate.
        key: names the policy's draws; step t folds t in.
        explore: how far actions depart from the policy's. The acting state is told what was executed.

    Returns:
        The episodes, in the order of their seeds.
    """
    return [rolled.episode for rolled in roll_on(pool, agent, seeds, mode, key, explore)]


class Rolled(NamedTuple):
    """An episode, and the rewards [up to ``beyond``] of what the policy did after it was truncated."""

    episode: Episode
    beyond: np.ndarray


def roll_on(
    pool: EnvPool,
    agent: Acting,
    seeds: Sequence[int],
    mode: ActMode,
    key: Key,
    explore: Exploration = NO_EXPLORATION,
    beyond: int = 0,
) -> list[Rolled]:
    """As :func:`roll_episodes`, and on for ``beyond`` steps after a truncation, which is no end of the task."""
    with agent.acting_weights():
        while True:
            try:
                recordings = _roll(pool, agent, seeds, mode, key, explore, beyond)
            except WorkerRestarted:
                continue
            return [
                Rolled(recording.episode(seed), np.array(recording.beyond, np.float32))
                for recording, seed in zip(recordings, seeds, strict=True)
            ]


def _roll(
    pool: EnvPool,
    agent: Acting,
    seeds: Sequence[int],
    mode: ActMode,
    key: Key,
    explore: Exploration,
    beyond: int,
) -> list[_Rolling]:
    count, device = len(seeds), agent.device
    explorer = Explorer(explore, count, key, device)
    training = agent.training
    agent.train(False)
    policy = Policy(agent, mode, key)
    try:
        image = pool.reset(seeds, beyond)
        recordings = [_Rolling(frame, beyond) for frame in image]
        t = 0
        while not all(recording.done for recording in recordings):
            asked = policy.act({KEY: torch.from_numpy(image).to(device)})
            action, on_detour = explorer(asked, key.fold(t))
            if action is not asked:
                policy.executed(action)  # the filter hears what the environment gets
            actions = action.cpu().numpy()
            image, reward, terminated, truncated, infos = pool.step(actions)
            for i, recording in enumerate(recordings):
                ends = bool(terminated[i]), bool(truncated[i])
                if not recording.ended:
                    recording.add(Played(actions[i], image[i], float(reward[i]), *ends, infos[i]))
                    if on_detour is not None:
                        recording.detours.append(bool(on_detour[i]))
                elif not recording.done:
                    recording.go_on(float(reward[i]), ends[0])
            t += 1
    finally:
        agent.train(training)
    return recordings


class _Rolling(Recording):
    """An episode while it is rolled, and the rewards of up to ``most_beyond`` steps after a truncation."""

    def __init__(self, frame: np.ndarray, most_beyond: int) -> None:
        super().__init__(frame)
        self.beyond: list[float] = []
        self.left = most_beyond

    @property
    def done(self) -> bool:
        return self.ended and (self.terminated or self.left == 0)

    def go_on(self, reward: float, terminated: bool) -> None:
        self.beyond.append(reward)
        self.left = 0 if terminated else self.left - 1
