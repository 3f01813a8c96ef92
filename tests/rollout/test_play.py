"""One environment played by a script: the same episode as a policy's with the same actions."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from moto_pl.envs import make
from moto_pl.ops import Key
from moto_pl.rollout.play import play, play_on, recorded
from moto_pl.rollout.policy import ArraySpec
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes

REACH: str = "moto_pl/Reach-v0"
OPTIONS: dict[str, Any] = {"episode_steps": 9, "reward": "dense"}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (9, 2)).astype(np.float32)


class Counting(gym.Env[Any, np.ndarray]):
    """Writes its steps into one frame that it gives again and again; ends in step ``ends``, in one way or the other."""

    observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)})
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, ends: int, terminates: bool) -> None:
        self.ends, self.terminates, self.frame = ends, terminates, np.zeros((2, 2, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.frame[:] = seed or 0
        self.steps = 0
        return {"image": self.frame}, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.frame[:] += 1
        ended = self.steps == self.ends
        info = {"success": self.steps == 2, "completed": np.array([self.steps >= 2, False])}
        return {"image": self.frame}, float(action[0]), ended and self.terminates, ended and not self.terminates, info


class Repeats:
    """A policy that does what is written."""

    device, training = torch.device("cpu"), True
    observes = {"image": ArraySpec((64, 64, 3), "uint8")}

    def train(self, mode: bool) -> None: ...

    def acting_weights(self) -> Any:
        return nullcontext()

    def initial_state(self, count: int) -> int:
        return 0

    def act(self, image: torch.Tensor, is_first: torch.Tensor, state: int, mode: str, key: Key) -> tuple[Any, int]:
        return torch.from_numpy(ACTIONS[state : state + 1]), state + 1

    def executed(self, state: int, action: torch.Tensor) -> int:
        return state


def test_a_script_and_a_policy_that_do_the_same_record_the_same() -> None:
    policy: Any = Repeats()
    with EnvPool(REACH, OPTIONS, 0) as pool:
        rolled = roll_episodes(pool, policy, [2], "mode", Key(0, 0))[0]
    env = make(REACH, **OPTIONS)
    played = play(env, 2, recorded(ACTIONS))
    env.close()
    assert played.length == 9 and played.reward.any()
    for name in ("image", "action", "reward", "success"):
        left, right = getattr(rolled, name), getattr(played, name)
        assert left.dtype == right.dtype and np.array_equal(left, right), name
    assert (rolled.terminated, rolled.truncated, rolled.info) == (played.terminated, played.truncated, played.info)
    assert rolled.extras.keys() == played.extras.keys()


@pytest.mark.parametrize(
    ("ends", "terminates", "length", "found"),
    [(3, True, 3, (True, False)), (3, False, 3, (False, True)), (99, True, 5, (False, True))],
    ids=["terminates", "truncates", "script-leaves-off"],
)
def test_how_an_episode_ends(ends: int, terminates: bool, length: int, found: tuple[bool, bool]) -> None:
    seen = []

    def script(step: int, frame: np.ndarray) -> np.ndarray | None:
        seen.append((step, int(frame[0, 0, 0])))
        return np.array([step / 8], np.float32) if step < 5 else None

    episode = play(Counting(ends, terminates), 7, script)
    assert (episode.terminated, episode.truncated) == found
    assert episode.image[:, 0, 0, 0].tolist() == list(range(7, 8 + length))  # each its own, though the env has but one
    assert (8 * episode.reward).tolist() == list(range(length)) and episode.success.tolist() == [
        False,
        True,
        False,
        False,
        False,
    ][:length]
    assert episode.extras["completed"][:, 0].tolist() == [False, *[True] * (length - 1)]
    assert seen[:length] == [(step, 7 + step) for step in range(length)]
    assert episode.info == {"seed": 7}


def test_nothing_is_done_beyond_what_the_caller_takes() -> None:
    env = Counting(3, terminates=True)
    env.reset(seed=0)
    taken = list(islice(play_on(env, env.frame, lambda step, frame: np.zeros(1, np.float32)), 2))
    assert len(taken) == env.steps == 2
