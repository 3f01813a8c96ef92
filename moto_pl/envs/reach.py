"""A tiny 2-D reaching task drawn with numpy: the robot tasks' interface, thousands of steps a second, no GL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from moto_pl.envs.pixel import PixelEnv
from moto_pl.errors import SettingError

STEP_LENGTH = 0.08
"""Distance that a full action moves the hand along one axis, in units of half the arena's width."""
WRIST_SCALE = 0.5
"""What the camera ``wrist`` sees, as a share of the arena's width."""
SUCCESS_RADIUS = 0.15
"""Largest distance between hand and goal that counts as success, in the same unit."""


class ReachEnv(PixelEnv):
    """Move a green dot (the hand) onto a red square (the goal).

    Observation: ``{"image": uint8 [image_size, image_size, 3]}``; where ``observe`` names them, ``"wrist"``, an image
    of the same size that a camera above the hand takes of half the arena's width, and the hand's position ``"hand"``,
    float64 ``[2]`` in [-1, 1]. Action: float32 ``[2]`` in [-1, 1], the hand's velocity. Reward: 1.0 at each step that
    ends with the hand within ``SUCCESS_RADIUS`` of the goal, else 0.0; where it is ``dense``, one minus the distance,
    at least 0. The episode is truncated after ``episode_steps`` steps and never terminates. ``info["success"]`` is a
    bool.

    Args:
        image_size: height and width of each image in pixels, at least 16.
        episode_steps: steps in an episode, at least 1.
        goal: ``random`` places it anew in each episode, ``centre`` in the middle of the arena.
        reward: ``sparse`` or ``dense``.
        hand_radius: how large the hand is drawn, above 0, in units of half the arena's width.
        render_mode: ``"rgb_array"`` or None.
        observe: what is observed: ``image``, ``wrist`` and ``hand``.

    Raises:
        SettingError: an argument is out of its range.
    """

    least_image_size = 16
    CAMERAS = ("image", "wrist")
    VECTORS = {"hand": 2}

    def __init__(
        self,
        image_size: int = 64,
        episode_steps: int = 30,
        goal: Literal["random", "centre"] = "random",
        reward: Literal["sparse", "dense"] = "sparse",
        hand_radius: float = 0.1,
        render_mode: str | None = None,
        observe: Sequence[str] = ("image",),
    ) -> None:
        super().__init__(2, image_size, episode_steps, render_mode, observe)
        if goal not in ("random", "centre"):
            raise SettingError("goal", goal, "Use random or centre.")
        if reward not in ("sparse", "dense"):
            raise SettingError("reward", reward, "Use sparse or dense.")
        if not hand_radius > 0:
            raise SettingError("hand_radius", hand_radius, "Give a number above 0.")
        self.goal, self.reward, self.hand_radius = goal, reward, hand_radius
        centres = (np.arange(image_size) + 0.5) / image_size * 2.0 - 1.0
        self._x, self._y = np.meshgrid(centres, -centres)  # image rows run downwards, y upwards
        self._hand, self._goal = np.zeros(2), np.zeros(2)

    @property
    def state(self) -> np.ndarray:
        """Hand and goal position, float64 ``[4]`` in [-1, 1]."""
        return np.concatenate([self._hand, self._goal])

    def vector(self, name: str) -> np.ndarray:
        """The hand's position."""
        return self._hand.copy()

    def _begin(self) -> None:
        """Place hand and goal at random, apart from each other."""
        self._hand = self.np_random.uniform(-0.8, 0.8, 2)
        while True:
            if self.goal == "random":
                self._goal = self.np_random.uniform(-0.8, 0.8, 2)
            else:  # the goal stays, so the hand is drawn again
                self._goal, self._hand = np.zeros(2), self.np_random.uniform(-0.8, 0.8, 2)
            if np.linalg.norm(self._goal - self._hand) > 3 * SUCCESS_RADIUS:
                break

    def _simulate(self, action: np.ndarray) -> tuple[float, dict[str, Any]]:
        """Move the hand by ``STEP_LENGTH * action``; it stays in the arena."""
        self._hand = np.clip(self._hand + STEP_LENGTH * action, -0.9, 0.9)
        distance = float(np.linalg.norm(self._goal - self._hand))
        success = distance <= SUCCESS_RADIUS
        reward = float(success) if self.reward == "sparse" else max(0.0, 1.0 - distance)
        return reward, {"success": success}

    def scripted_action(self) -> np.ndarray:
        """The action that moves straight to the goal: float32 ``[2]`` in [-1, 1]."""
        return np.clip((self._goal - self._hand) / STEP_LENGTH, -1.0, 1.0).astype(np.float32)

    def view(self, name: str) -> np.ndarray:
        """The whole arena, or what is near the hand; the arena's walls are seen there."""
        image = np.full((self.image_size, self.image_size, 3), (40, 40, 60), np.uint8)
        x, y = self._x, self._y
        if name == "wrist":
            x, y = self._hand[0] + WRIST_SCALE * x, self._hand[1] + WRIST_SCALE * y
            image[np.maximum(np.abs(x), np.abs(y)) > 1] = (0, 0, 0)
        goal = np.maximum(np.abs(x - self._goal[0]), np.abs(y - self._goal[1])) < SUCCESS_RADIUS
        hand = (x - self._hand[0]) ** 2 + (y - self._hand[1]) ** 2 < self.hand_radius**2
        image[goal] = (220, 60, 50)
        image[hand] = (70, 210, 90)
        return image
