"""What the environments share: an image, actions in [-1, 1], an end after so many steps; and a camera in MuJoCo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from moto_pl.envs.rendering import QUALITIES, Camera, FrameRenderer, Quality, parse_camera, select_backend
from moto_pl.errors import SettingError


class PixelEnv(gym.Env[dict[str, Any], np.ndarray], ABC):
    """An environment from pixels.

    Observation: ``{"image": uint8 [image_size, image_size, 3]}``. Action: float32 ``[action_size]``, clipped to
    [-1, 1]. An episode is truncated after ``episode_steps`` steps and never terminates; it is a pure function of the
    seed and the actions. Every ``info`` has ``"success"``, a bool.

    A subclass says how an episode begins, what a step does and how it is drawn.

    Args:
        action_size: numbers in an action.
        image_size: height and width of the image in pixels, at least ``least_image_size``.
        episode_steps: steps in an episode, at least 1.
        render_mode: ``"rgb_array"`` or None.

    Raises:
        SettingError: an argument is out of its range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    least_image_size: ClassVar[int] = 1
    observation_space: spaces.Dict

    def __init__(self, action_size: int, image_size: int, episode_steps: int, render_mode: str | None) -> None:
        check_least("image_size", image_size, self.least_image_size)
        check_least("episode_steps", episode_steps)
        self.action_size = action_size
        self.image_size, self.episode_steps, self.render_mode = image_size, episode_steps, render_mode
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)})
        self.action_space = spaces.Box(-1.0, 1.0, (action_size,), np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; with ``seed``, the one that belongs to the seed."""
        self.start(seed)
        return self.observe(), self._first_info()

    def start(self, seed: int | None = None) -> None:
        """What :meth:`reset` does, without an image."""
        super().reset(seed=seed)
        self._steps = 0
        self._begin()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take a step; ``info["unstable"]``, where it is true, ends the episode there (truncated).

        Args:
            action: numbers ``[action_size]``, clipped to [-1, 1].

        Raises:
            SettingError: the action is not finite, or has another number of numbers.
        """
        reward, info = self._simulate(self._clipped(action))
        self._steps += 1
        over = self._steps >= self.episode_steps or bool(info.get("unstable", False))
        return self.observe(), reward, False, over, info

    def observe(self) -> dict[str, np.ndarray]:
        """The observation of the present state."""
        return {"image": self.render()}

    @abstractmethod
    def render(self) -> np.ndarray:
        """Draw the present state: uint8 ``[image_size, image_size, 3]``."""

    @abstractmethod
    def _begin(self) -> None:
        """Put everything where an episode begins, drawing from ``self.np_random``."""

    @abstractmethod
    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """One step: float64 ``[action_size]`` in [-1, 1] to its reward and info."""

    def _first_info(self) -> dict[str, Any]:
        return {"success": False}

    def _clipped(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise SettingError("action", action.tolist(), f"Give {self.action_size} finite numbers.")
        return np.clip(action, -1.0, 1.0)


class MujocoPixelEnv(PixelEnv):
    """A :class:`PixelEnv` whose image a camera takes in a MuJoCo scene.

    Args:
        action_size: numbers in an action.
        image_size: height and width of the image in pixels.
        episode_steps: steps in an episode.
        render_mode: ``"rgb_array"`` or None.
        camera: ``"paper"``, a camera of the scene by name, or a free camera
            (:class:`~moto_pl.envs.rendering.Camera`, or its fields as a mapping).
        render_quality: ``"fast"`` (no shadows, reflections, multisampling) or ``"full"``.

    Raises:
        SettingError: an argument is out of its range, or no OpenGL works.
    """

    paper_camera: ClassVar[Camera]

    def __init__(
        self,
        action_size: int,
        image_size: int,
        episode_steps: int,
        render_mode: str | None,
        camera: Camera | Mapping[str, Any] | str,
        render_quality: Quality,
    ) -> None:
        super().__init__(action_size, image_size, episode_steps, render_mode)
        if render_quality not in QUALITIES:
            raise SettingError("render_quality", render_quality, f"Use one of {', '.join(QUALITIES)}.")
        self.camera: Camera | str = self.paper_camera if camera == "paper" else parse_camera(camera)
        self.render_quality = render_quality
        self._renderer: FrameRenderer | None = None
        select_backend()  # before a subclass imports MuJoCo, which reads the choice then

    @property
    @abstractmethod
    def model(self) -> Any:
        """The scene, a ``mujoco.MjModel``: not by type, for which the parser of options would import MuJoCo."""

    @property
    @abstractmethod
    def data(self) -> Any:
        """The scene's present state, a ``mujoco.MjData``."""

    def render(self) -> np.ndarray:
        """Draw the present state: uint8 ``[image_size, image_size, 3]``."""
        return self._frames().render(self.data)

    @property
    def gl_renderer(self) -> str:
        """The name of the OpenGL renderer that draws the images."""
        return self._frames().gl_renderer

    def close(self) -> None:
        """Free the renderer; a subclass frees its simulator."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _frames(self) -> FrameRenderer:
        # Made on first use: an environment that is only simulated, or asked for its spaces, needs no OpenGL context.
        if self._renderer is None:
            self._renderer = FrameRenderer(self.model, self.camera, self.image_size, self.render_quality)
        return self._renderer


def check_least(name: str, value: int, least: int = 1) -> None:
    """Refuses a number below ``least``.

    Raises:
        SettingError: it is.
    """
    if value < least:
        raise SettingError(name, value, f"Use {least} or more.")
