"""Environments that hang, die and raise, for the tests of the workers; imported by the workers too."""

import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np

from moto_pl.envs.reach import ReachEnv


class MisbehavingEnv(ReachEnv):
    """Does ``what`` in the step numbered ``at``; with ``once``, a file, only as long as that file is not there."""

    def __init__(self, what: str, at: int = 2, once: str = "", **kwargs):
        super().__init__(**kwargs)
        self._what, self._at, self._once = what, at, once
        if what == "die at start":
            os._exit(3)

    def step(self, action: np.ndarray):
        result = super().step(action)
        if self._steps == self._at and not (self._once and Path(self._once).exists()):
            if self._once:
                Path(self._once).touch()
            if self._what == "hang":
                time.sleep(3600)
            elif self._what == "die" or (self._what == "die with egl" and os.environ.get("MUJOCO_GL") == "egl"):
                os._exit(7)
            elif self._what == "raise":
                raise ValueError("the gripper fell off")
        return result


gym.register("moto_pl_test/Misbehaving-v0", MisbehavingEnv)


class DiscreteEnv(ReachEnv):
    """Takes one of five actions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.action_space = gym.spaces.Discrete(5)


gym.register("moto_pl_test/Discrete-v0", DiscreteEnv)
