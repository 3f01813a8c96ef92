"""What the environments share, by one that draws its step number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moto_pl.envs import make
from moto_pl.envs.pixel import PixelEnv
from moto_pl.errors import SettingError


class Counter(PixelEnv):
    """Pays the sum of an action, begins at a random number, and is unstable at the actions' lowest corner."""

    def __init__(self, image_size: int = 16, episode_steps: int = 3) -> None:
        super().__init__(2, image_size, episode_steps, "rgb_array")
        self.value = 0

    def view(self, name: str) -> np.ndarray:
        return np.full((self.image_size, self.image_size, 3), self.value, np.uint8)

    def _begin(self) -> None:
        self.value = int(self.np_random.integers(100))

    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        self.value += 1
        return float(action.sum()), {"success": False} | ({"unstable": True} if (action == -1).all() else {})


def test_an_episode_ends_after_its_steps_or_where_it_blows_up() -> None:
    env = Counter(episode_steps=3)
    for seed in (4, 4):
        first = env.reset(seed=seed)[0]["image"]
        assert (first == np.random.default_rng(4).integers(100)).all()
        ends = [env.step(np.zeros(2))[3] for _ in range(3)]
        assert ends == [False, False, True]
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.full(2, -7.0))  # clipped before it is paid
    assert (reward, terminated, truncated, info["unstable"]) == (-2.0, False, True, True)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 2)), np.array([0.0, np.nan]), np.array([np.inf, 0.0])])
def test_bad_actions_are_refused(action: np.ndarray) -> None:
    """By every environment: one that takes NaN goes on with a state that is none."""
    for env in (Counter(), make("moto_pl/Reach-v0")):
        env.reset(seed=0)
        with pytest.raises(SettingError, match="action: found.*Give 2 finite numbers"):
            env.step(action)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(SettingError, match="image_size: found 0. Use 1 or more"):
        Counter(image_size=0)
    with pytest.raises(SettingError, match="episode_steps: found 0. Use 1 or more"):
        Counter(episode_steps=0)


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(TypeError, match="_begin"):
        type("Half", (PixelEnv,), {"view": Counter.view, "_simulate": Counter._simulate})(2, 16, 3, None)
