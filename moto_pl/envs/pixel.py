"""What the environments share: an image, actions in [-1, 1], an end after so many steps; and a camera in MuJoCo."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.envs.rendering import (
    QUALITIES,
    Camera,
    FrameRenderer,
    MountedCamera,
    Quality,
    parse_camera,
    select_backend,
)
from moto_pl.errors import SettingError


class PixelEnv(gym.Env[dict[str, Any], np.ndarray], ABC):
    """An environment from pixels.

    Observation: a dict of what ``observe`` names: images, uint8 ``[image_size, image_size, 3]``, and state vectors
    float64 ``[n]``. Action: float32 ``[action_size]``, clipped to [-1, 1]. An episode is truncated after
    ``episode_steps`` steps and never terminates; it is a pure function of the seed and the actions. Every ``info`` has
    ``"success"``, a bool.

    A subclass says how an episode begins, what a step does and how it is drawn.

    Args:
        action_size: numbers in an action.
        image_size: height and width of each image in pixels, at least ``least_image_size``.
        episode_steps: steps in an episode, at least 1.
        render_mode: ``"rgb_array"`` or None.
        observe: what is observed: at least one of ``CAMERAS``, and any of ``VECTORS``.

    Attributes:
        CAMERAS: the images' names.
        VECTORS: how many numbers each state vector has, by its name.
        observation: what is observed, with the vectors' sizes.

    Raises:
        SettingError: an argument is out of its range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    least_image_size: ClassVar[int] = 1
    CAMERAS: ClassVar[tuple[str, ...]] = ("image",)
    VECTORS: ClassVar[Mapping[str, int]] = {}
    observation_space: spaces.Dict

    def __init__(
        self,
        action_size: int,
        image_size: int,
        episode_steps: int,
        render_mode: str | None,
        observe: Sequence[str] = ("image",),
    ) -> None:
        check_least("image_size", image_size, self.least_image_size)
        check_least("episode_steps", episode_steps)
        self.action_size = action_size
        self.image_size, self.episode_steps, self.render_mode = image_size, episode_steps, render_mode
        self.observation = self._checked(observe)
        found: dict[str, spaces.Space[Any]] = {}
        for name in self.observation.cameras:
            found[name] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        for name, size in self.observation.state.items():
            found[name] = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.observation_space = spaces.Dict(found)
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
        images = {name: self.view(name) for name in self.observation.cameras}
        return images | {name: self.vector(name) for name in self.observation.state}

    def render(self) -> np.ndarray:
        """Draw the present state as the camera ``image`` sees it: uint8 ``[image_size, image_size, 3]``."""
        return self.view("image")

    @abstractmethod
    def view(self, name: str) -> np.ndarray:
        """What one of ``CAMERAS`` sees of the present state: uint8 ``[image_size, image_size, 3]``."""

    def vector(self, name: str) -> np.ndarray:
        """One of ``VECTORS`` in the present state: float64 ``[n]``, a copy."""
        raise NotImplementedError(name)

    @abstractmethod
    def _begin(self) -> None:
        """Put everything where an episode begins, drawing from ``self.np_random``."""

    @abstractmethod
    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """One step: float64 ``[action_size]`` in [-1, 1] to its reward and info."""

    def _first_info(self) -> dict[str, Any]:
        return {"success": False}

    def _checked(self, observe: Sequence[str]) -> Observation:
        names = [observe] if isinstance(observe, str) else list(observe)
        known = (*self.CAMERAS, *self.VECTORS)
        for name in names:
            if name not in known:
                raise SettingError("observe", name, f"{type(self).__name__} offers {', '.join(known)}.")
        cameras = tuple(name for name in names if name in self.CAMERAS)
        if not cameras or len(set(names)) < len(names):
            fix = f"Name each observation once, and an image among them: {' or '.join(self.CAMERAS)}."
            raise SettingError("observe", names, fix)
        state = tuple(name for name in names if name in self.VECTORS)
        return Observation.of(ObservationConfig(cameras, state), self.VECTORS, self.image_size)

    def _clipped(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise SettingError("action", action.tolist(), f"Give {self.action_size} finite numbers.")
        return np.clip(action, -1.0, 1.0)


class MujocoPixelEnv(PixelEnv):
    """A :class:`PixelEnv` whose image a camera takes in a MuJoCo scene; the arguments are that one's, and two more.

    Args:
        camera: what ``image`` is seen through: ``"paper"``, a camera of the scene by name, or a free camera
            (:class:`~moto_pl.envs.rendering.Camera`, or its fields as a mapping).
        render_quality: ``"fast"`` (no shadows, reflections, multisampling) or ``"full"``.

    Attributes:
        SCENE_CAMERAS: those of ``CAMERAS`` that are not ``image``: free ones, those that a hand carries, or what the
            scene calls them.

    Raises:
        SettingError: an argument is out of its range, or no OpenGL works.
    """

    paper_camera: ClassVar[Camera]
    SCENE_CAMERAS: ClassVar[Mapping[str, Camera | MountedCamera | str]] = {}

    def __init__(
        self,
        action_size: int,
        image_size: int,
        episode_steps: int,
        render_mode: str | None,
        camera: Camera | Mapping[str, Any] | str,
        render_quality: Quality,
        observe: Sequence[str] = ("image",),
    ) -> None:
        super().__init__(action_size, image_size, episode_steps, render_mode, observe)
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

    def view(self, name: str) -> np.ndarray:
        """See :meth:`PixelEnv.view`."""
        return self._frames().render(self.data, self.SCENE_CAMERAS.get(name))

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
