"""An environment that computes as some simulators do, with libraries that have threads; imported by the workers too."""

import os

import gymnasium as gym
import numpy as np
import torch

from moto_pl.envs.reach import ReachEnv


def threads_at_work() -> int:
    """How many threads this process computes with: those that a large product starts, or torch says it may."""
    before = len(os.listdir("/proc/self/task"))
    torch.ones(512, 512) @ torch.ones(512, 512)
    torch.ones(1 << 20).exp()
    return max(torch.get_num_threads(), 1 + len(os.listdir("/proc/self/task")) - before)


class BusyEnv(ReachEnv):
    """Pays the number of threads at work."""

    def step(self, action: np.ndarray):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(threads_at_work()), terminated, truncated, info


gym.register("moto_pl_test/Busy-v0", BusyEnv)
