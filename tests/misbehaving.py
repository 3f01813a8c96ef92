"""Environments that hang, die and raise, for the tests of the workers; imported by the workers too."""

import os
import threading
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


class OddEnv(ReachEnv):
    """Declares or returns what it should not; ``what`` says what, from step ``at`` on (0: the reset)."""

    def __init__(self, what: str = "", at: int = 1, **kwargs):
        super().__init__(**kwargs)
        self._what, self._at = what, at
        image = self.observation_space["image"]
        spaces = {
            "declares float": gym.spaces.Dict(image=gym.spaces.Box(0, 1, image.shape, np.float32)),
            "declares channels first": gym.spaces.Dict(image=gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)),
            "declares one channel": gym.spaces.Dict(image=gym.spaces.Box(0, 255, (64, 64, 1), np.uint8)),
            "declares 0 and 1": gym.spaces.Dict(image=gym.spaces.Box(0, 1, image.shape, np.uint8)),
            "declares another key": gym.spaces.Dict(front=image, wrist=image),
            "declares no Dict": image,
        }
        self.observation_space = spaces.get(what, self.observation_space)
        bounds = {"takes 7.5": (-7.5, 7.5), "takes 0 to 1": (0.0, 1.0), "takes anything": (-np.inf, np.inf)}
        if what in bounds:
            self.action_space = gym.spaces.Box(*bounds[what], (2,), np.float32)
        if what == "takes integers":
            self.action_space = gym.spaces.Box(-1, 1, (2,), np.int8)
        if what == "raises when made":
            raise ValueError("no such robot")

    def _odd(self, frame: np.ndarray):
        frames = {
            "float": frame.astype(np.float32) / 255,
            "nan": np.full(frame.shape, np.nan, np.float32),
            "int16": frame.astype(np.int16) * 2,
            "one channel": frame[:, :, :1],
            "channels first": frame.transpose(2, 0, 1),
            "another size": np.zeros((84, 84, 3), np.uint8),
            "list": frame.tolist(),
            "None": None,
        }
        if self._what == "no key":
            return {"front": frame}
        return {"image": frames.get(self._what, frame)}

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        if self._what == "one value from reset":
            return observation
        return (self._odd(observation["image"]) if self._at == 0 else observation), info

    def step(self, action: np.ndarray):
        observation, reward, terminated, truncated, info = super().step(action)
        if self._steps < self._at:
            return observation, reward, terminated, truncated, info
        what = self._what
        rewards = {
            "text reward": "1.0",
            "two rewards": np.ones(2),
            "nan reward": np.nan,
            "vast reward": 1e300,
            "reward [1]": np.ones(1),
        }
        infos = {
            "None for info": None,
            "nan success": {"success": np.nan},
            "text success": {"success": "False"},
            "two successes": {"success": np.array([True, False])},
            "success [1]": {"success": np.array([True])},
            "is_success": {"is_success": 1},
            "lock": {**info, "lock": threading.Lock(), "note": "kept"},
            "ragged": {**info, "completed": [[True], [True, False]]},
            "fewer flags": {**info, "completed": [True] * (4 if self._steps == self._at else 3)},
            "flags": {**info, "completed": [1, 0]},
        }
        if what == "raises":
            return self._fail()
        if what == "text terminated":
            terminated = "False"
        result = self._odd(observation["image"]), rewards.get(what, reward), terminated, truncated
        return result if what == "four values" else (*result, infos.get(what, info))

    def _fail(self):
        raise ValueError("the simulation\ndiverged")

    def close(self):
        if self._what == "raises when closed":
            raise ValueError("the window is gone")


gym.register("moto_pl_test/Odd-v0", OddEnv)
gym.register("moto_pl_test/OddLimited-v0", OddEnv, max_episode_steps=7)


class EndlessEnv(ReachEnv):
    """Sets no limit and never ends an episode."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.episode_steps = None

    def step(self, action: np.ndarray):
        self.episode_steps = 10**9
        observation, reward, _, _, info = super().step(action)
        self.episode_steps = None
        return observation, reward, False, False, info


gym.register("moto_pl_test/Endless-v0", EndlessEnv)


class OddVectorEnv(ReachEnv):
    """Has a state vector ``joints`` of three numbers, and ``what`` is wrong with it."""

    def __init__(self, what: str = "", **kwargs):
        super().__init__(observe=("image", "hand"), **kwargs)
        self._what = what
        flat = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        kinds = {"matrix": gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float64), "discrete": gym.spaces.Discrete(3)}
        found = {**self.observation_space.spaces, "joints": kinds.get(what, flat)}
        if what == "missing":
            del found["joints"]
        if what == "front":
            found["front"] = found.pop("image")
        self.observation_space = gym.spaces.Dict(found)

    def observe(self):
        found = super().observe()
        if self._what == "front":
            found["front"] = found.pop("image")
        wrong = {
            "returns another": np.zeros(4),
            "returns nan": np.array([0, np.nan, 1]),
            "returns vast": np.full(3, 1e300),
        }
        joints = wrong.get(self._what, np.arange(3.0))
        return found if self._what == "returns none" else {**found, "joints": joints}


gym.register("moto_pl_test/OddVector-v0", OddVectorEnv)


class WideEnv(ReachEnv):
    """The reaching task in other numbers: its first action from -2 to 6, its second from 0 to 0.5."""

    def __init__(self, bounded: bool = True, **kwargs):
        super().__init__(**kwargs)
        low, high = np.array([-2, 0], np.float32), np.array([6, 0.5], np.float32)
        infinite = np.full(2, np.inf, np.float32)
        self.action_space = gym.spaces.Box(*((low, high) if bounded else (-infinite, infinite)), dtype=np.float32)
        self._low, self._high = low.astype(float), high.astype(float)

    def step(self, action: np.ndarray):
        assert self.action_space.contains(action)
        return super().step(2 * (np.asarray(action, float) - self._low) / (self._high - self._low) - 1)


gym.register("moto_pl_test/Wide-v0", WideEnv)


class CamerasEnv(ReachEnv):
    """Has a second camera ``odd``, and ``what`` is wrong with it; ``wide``: it is not square, and shows the scene."""

    def __init__(self, what: str = "", **kwargs):
        super().__init__(**kwargs)
        self._what = what
        shape = {"smaller": (32, 32, 3), "wide": (48, 80, 3)}.get(what, (64, 64, 3))
        odd = gym.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "odd": odd})

    def observe(self):
        size = 32 if "smaller" in self._what else 64
        odd = np.ones((size, size, 3), np.uint8)
        if self._what == "wide":
            odd = np.concatenate([self.view("image"), self.view("image")[:, :16]], axis=1)[8:56]
        return super().observe() | ({} if self._what == "returns none" else {"odd": odd})


gym.register("moto_pl_test/Cameras-v0", CamerasEnv)
