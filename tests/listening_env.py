"""A reaching task that writes down which actions it got, for tests of what an acting state is told."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from moto_pl.envs.reach import ReachEnv


class ListeningEnv(ReachEnv):
    """Reach, with every action that any environment of the class got, in order."""

    heard: ClassVar[list[np.ndarray]] = []

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.heard.append(np.array(action))
        return super().step(action)


gym.register("Listening-v0", entry_point=ListeningEnv, disable_env_checker=True, order_enforce=False)
