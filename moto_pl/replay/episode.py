"""An episode: what environments produce, datasets hold and the replay stores."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moto_pl.errors import SettingError

#: Types that ``Episode.extras`` may have, by their names in a file.
EXTRA_TYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
EXTRA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

OBJECT_EXTRAS = ("completed", "in_place")
"""Infos of an environment with objects that an episode keeps as extras, bool [T, objects]: which of the task's objects
are in place after each step, in the task's order, and which of all, in that of ``moto_pl.envs.KITCHEN_OBJECTS``."""

DETOUR = "detour"
"""The extra, bool [T], that says in which steps the policy did not act, of an episode collected with detours."""

InfoValue = str | int | float | bool


class EpisodeFigures:
    """What an episode comes to, in memory or stored."""

    reward: np.ndarray
    success: np.ndarray
    extras: dict[str, np.ndarray]

    @property
    def length(self) -> int:
        """Steps T."""
        return len(self.success)

    @property
    def total_reward(self) -> float:
        """Sum of the rewards."""
        return float(self.reward.sum(dtype=np.float64))

    @property
    def succeeded(self) -> bool:
        """Whether any step led to success."""
        return bool(self.success.any())

    @property
    def success_last(self) -> bool:
        """Whether the last step led to success: the one that terminated the episode or at which it was cut off."""
        return bool(self.success[-1])

    @property
    def success_steps(self) -> int:
        """Steps that led to success, 0 to T. An environment that terminates at success has one at most."""
        return int(self.success.sum())

    @property
    def ever_completed(self) -> np.ndarray | None:
        """Which of the task's objects were in place at any step, bool [objects]; None where that is not recorded."""
        completed = self.extras.get("completed")
        return None if completed is None or completed.ndim != 2 else np.asarray(completed.any(axis=0))


@dataclass(frozen=True, eq=False)
class Episode(EpisodeFigures):
    """One episode of T steps, with the T + 1 frames around them.

    Attributes:
        image: uint8 [T + 1, H, W, 3 * M], M cameras' images one after another; frame t is what was seen before step t,
            the last one after the last step.
        action: float32 [T, A] in [-1, 1].
        reward: float32 [T], finite.
        terminated: the task ended (the value beyond is zero).
        truncated: it was cut off, by a time limit for instance.
        success: bool [T], whether step t led to success.
        extras: further arrays with leading dimension T, such as those of ``OBJECT_EXTRAS``; numbers are not NaN.
        info: where it came from (seed, environment, render quality, ...): plain finite values.
        vector: float32 [T + 1, V], finite: the state vectors seen with each frame, one after another; None where none
            are learned from.

    Raises:
        SettingError: an array has another shape, type or range.
    """

    image: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    success: np.ndarray
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, InfoValue] = field(default_factory=dict)
    vector: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check("image", self.image, np.uint8, "[T + 1, H, W, 3]", ndim=4)
        if self.image.shape[3] % 3 or 0 in self.image.shape:
            fix = "Give frames [T + 1, H, W, 3], or of M cameras [T + 1, H, W, 3 * M]."
            raise SettingError("episode.image", f"shape {self.image.shape}", fix)
        steps = len(self.image) - 1
        if steps < 1:
            raise SettingError("episode.image", f"{len(self.image)} frame", "Give at least one step: two frames.")
        _check("action", self.action, np.float32, f"[{steps}, A], one fewer than the frames", steps, 2)
        _check("reward", self.reward, np.float32, f"[{steps}], one fewer than the frames", steps, 1)
        _check("success", self.success, np.bool_, f"[{steps}], one fewer than the frames", steps, 1)
        if self.vector is not None:
            _check("vector", self.vector, np.float32, f"[{steps + 1}, V], one row a frame", steps + 1, 2)
            if not np.isfinite(self.vector).all():
                row, place = np.argwhere(~np.isfinite(self.vector))[0]
                raise SettingError("episode.vector", f"{self.vector[row, place]} in row {row}", "Give finite numbers.")
        outside = ~(np.abs(self.action) <= 1)  # true of NaN as well
        if outside.any():
            step = int(outside.any(axis=1).argmax())
            value = float(self.action[step][outside[step]][0])
            raise SettingError("episode.action", f"{value} at step {step}", "Scale or clip actions to [-1, 1].")
        if not np.isfinite(self.reward).all():
            step = int((~np.isfinite(self.reward)).argmax())
            raise SettingError("episode.reward", f"{self.reward[step]} at step {step}", "Give finite rewards.")
        for name in ("terminated", "truncated"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"episode.{name}", repr(getattr(self, name)), "Give True or False.")
        for name, array in self.extras.items():
            self._check_extra(name, array, steps)
        for key, entry in self.info.items():
            plain = isinstance(key, str) and isinstance(entry, (str, int, float, bool))
            if not plain or (isinstance(entry, float) and not math.isfinite(entry)):
                raise SettingError(f"episode.info[{key!r}]", repr(entry), "Give text, a finite number, True or False.")

    @staticmethod
    def _check_extra(name: str, array: np.ndarray, steps: int) -> None:
        label = f"episode.extras[{name!r}]"
        if not isinstance(name, str) or not EXTRA_NAME.fullmatch(name):
            raise SettingError(label, "this name", "Use up to 64 letters, digits and underscores.")
        if not isinstance(array, np.ndarray) or array.dtype not in EXTRA_TYPES.values():
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise SettingError(label, found, f"Give an array of {', '.join(map(str, EXTRA_TYPES.values()))}.")
        if array.ndim < 1 or len(array) != steps:
            raise SettingError(label, f"shape {array.shape}", f"Give the leading dimension {steps}, one entry a step.")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise SettingError(label, "NaN", "Give numbers.")


def completion_order(in_place: np.ndarray, ties: Sequence[int] = ()) -> list[tuple[int, int]]:
    """The objects in place at an episode's last step, in the order in which they were first completed.

    Args:
        in_place: bool [T, objects], after each step.
        ties: of the objects completed at one step these come first, in this order.

    Returns:
        A pair for each: its column, and the step of its first completion.
    """
    first, rank = in_place.argmax(axis=0), {column: place for place, column in enumerate(ties)}
    ended = [(int(column), int(first[column])) for column in np.flatnonzero(in_place[-1])]
    return sorted(ended, key=lambda pair: (pair[1], rank.get(pair[0], len(rank)), pair[0]))


class Rows(NamedTuple):
    """An episode as the learner reads it: T + 1 rows, each with the action that led to its frame.

    Attributes:
        image: uint8 [T + 1, 3 * M, H, W], contiguous.
        action: float32 [T + 1, A]; row 0 is zero.
        reward: float32 [T + 1]; row 0 is zero.
        is_first: bool [T + 1], true in row 0.
        is_terminal: bool [T + 1], true in the last row of an episode that terminated.
        vector: float32 [T + 1, V]; None where no vectors are learned from.
    """

    image: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_terminal: np.ndarray
    vector: np.ndarray | None = None


def rows(episode: Episode) -> Rows:
    """The learner's rows of an episode: action and reward move one row down, beside the frame that they led to."""
    count = episode.length + 1
    action = np.zeros((count, episode.action.shape[1]), np.float32)
    reward = np.zeros(count, np.float32)
    action[1:], reward[1:] = episode.action, episode.reward
    is_first, is_terminal = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    is_first[0], is_terminal[-1] = True, episode.terminated
    image = np.ascontiguousarray(episode.image.transpose(0, 3, 1, 2))
    return Rows(image, action, reward, is_first, is_terminal, episode.vector)


def _check(name: str, array: np.ndarray, dtype: type, shape: str, steps: int | None = None, ndim: int = 1) -> None:
    fix = f"Give {np.dtype(dtype)} {shape}."
    if not isinstance(array, np.ndarray):
        raise SettingError(f"episode.{name}", type(array).__name__, fix)
    if array.dtype != dtype:
        raise SettingError(f"episode.{name}", array.dtype, fix)
    if array.ndim != ndim or (steps is not None and len(array) != steps):
        raise SettingError(f"episode.{name}", f"shape {array.shape}", fix)
