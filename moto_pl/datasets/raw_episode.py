"""One recorded episode as it lies in somebody's dataset, checked and turned into an ``Episode``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moto_pl.envs.actions import SUCCESS_KEYS, ActionScale
from moto_pl.errors import SettingError
from moto_pl.replay.episode import EXTRA_NAME, EXTRA_TYPES, Episode, InfoValue

ROUNDING = 1e-5
"""So far beyond [-1, 1] an action is taken for rounding, and clipped."""


@dataclass(frozen=True)
class RawEpisode:
    """The arrays of T recorded steps, and what to call them in an error.

    Attributes:
        label: of the dataset.
        place: of the episode in it, such as ``episode 3 of main_data.hdf5``.
        image: T + 1 frames.
        action: float32, T rows.
        reward: float32 [T], or [T, 1].
        terminations: bool [T], or [T, 1].
        truncations: bool [T], or [T, 1].
        infos: arrays of T rows, or of T + 1 with the reset's first.
        vector: state vectors, T + 1 rows float32 [V]; None where none are read.
        scale: what actions in [-1, 1] stand for; None: themselves.
        clips: an action beyond the scale counts as its end, rather than being refused.
    """

    label: str
    place: str
    image: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: Mapping[str, Any]
    vector: np.ndarray | None = None
    scale: ActionScale | None = None
    clips: bool = False

    def episode(self, image_shape: tuple[int, int, int], action_size: int, info: dict[str, InfoValue]) -> Episode:
        """The episode; actions that exceed [-1, 1] by rounding are clipped.

        Raises:
            SettingError: it has other sizes, it goes on after its end, or a value is not finite or out of range.
        """
        reward = column(self.reward)
        steps = len(reward)
        if reward.ndim != 1 or steps == 0:
            raise self._error(f"rewards {self.reward.shape}", "Expected one number a step: write it again.")
        frames = (steps + 1, *image_shape)
        if self.image.shape != frames or self.image.dtype != np.uint8:
            found = f"images {self.image.dtype} {self.image.shape} for {steps} rewards"
            raise self._error(found, f"Expected uint8 {frames}: build it again.")
        if self.action.shape != (steps, action_size):
            found = f"actions {self.action.shape} for {steps} rewards"
            raise self._error(found, f"Expected {(steps, action_size)}: build it again.")
        terminated, truncated = self._end(steps)
        if not np.isfinite(reward).all():
            step = int(np.argmin(np.isfinite(reward)))
            raise self._error(f"the reward {reward[step]}", "Rewards must be finite: write it again.", step)
        action, success, extras = self._clipped(), self._success(reward), self._extras(steps)
        try:
            return Episode(self.image, action, reward, terminated, truncated, success, extras, info, self.vector)
        except SettingError as error:
            raise self._error(f"{error.setting}: {error.found}", error.fix) from error

    @property
    def rounded(self) -> bool:
        """Whether an action exceeds [-1, 1] by rounding."""
        size = np.abs(self._scaled())
        return bool(((size > 1) & (size <= 1 + ROUNDING)).any())

    def _end(self, steps: int) -> tuple[bool, bool]:
        """Whether it was terminated, and whether truncated: in its last step alone."""
        flags = {"termination": column(self.terminations), "truncation": column(self.truncations)}
        for name, values in flags.items():
            if values.shape != (steps,):
                raise self._error(f"{name}s {values.shape} for {steps} rewards", "Expected one a step: build it again.")
            if values[:-1].any():
                step = int(values.argmax())
                fix = "An episode ends there: make what follows another episode, and write it again."
                raise self._error(f"a {name} before the last of {steps} steps,", fix, step)
        terminated = bool(flags["termination"][-1])
        # An episode that was recorded to its end without a flag was cut off there.
        return terminated, bool(flags["truncation"][-1]) or not terminated

    def _scaled(self) -> np.ndarray:
        """Actions as policies have them, before they are clipped; of another shape as they are."""
        if self.scale is None or self.action.shape[-1:] != (len(self.scale.low),):
            return self.action
        return self.scale.to_policy(self.action)

    def _clipped(self) -> np.ndarray:
        action = self._scaled()
        if self.clips:
            action = np.where(np.isfinite(action), np.clip(action, -1, 1), action)
        bad = ~(np.abs(action) <= 1 + ROUNDING)  # also true of NaN
        if bad.any():
            step, dimension = np.argwhere(bad)[0]
            found = f"the action {self.action[step, dimension]:g} (dimension {dimension})"
            fix = "Give finite actions in their Box ([-1, 1] without bounds), or set data.action_scale: percentile."
            raise self._error(found, fix, int(step))
        return clip_rounding(action)

    def _success(self, reward: np.ndarray) -> np.ndarray:
        """What the infos say of success, else all objects completed, else a reward greater than zero; bool [T]."""
        steps = len(reward)
        for key in SUCCESS_KEYS:
            if key in self.infos:
                return self._flags(key, steps)
        completed = step_rows(self.infos.get("completed", ()), steps)
        if completed is not None and completed.ndim == 2:
            return np.all(completed > 0, axis=1, keepdims=True)[:, 0]
        positive: np.ndarray = np.greater(reward, 0)
        return positive

    def _flags(self, key: str, steps: int) -> np.ndarray:
        array = np.asarray(self.infos[key])
        if array.size == 1 and steps > 1 and array.dtype.kind in "biuf":
            # One flag for the whole episode: which step it was is not known, the last one at the latest.
            array = np.array([False] * (steps - 1) + [array.item()], array.dtype)
        values = step_rows(array, steps)
        if values is None or values.size != steps:
            found = f"infos['{key}'] {array.dtype} {array.shape} for {steps} rewards"
            raise self._error(found, "Expected True or False for each step, or one for the episode.")
        values = values.reshape(steps)
        if np.isnan(values).any():
            step = int(np.isnan(values).argmax())
            raise self._error(f"infos['{key}'] {values[step]}", "Expected True or False: write it again.", step)
        return np.asarray(values > 0)

    def _extras(self, steps: int) -> dict[str, np.ndarray]:
        """The infos that an episode can hold; others' datasets may have any."""
        extras = {}
        for key, values in self.infos.items():
            array = step_rows(values, steps)
            if key in SUCCESS_KEYS or array is None or not EXTRA_NAME.fullmatch(key):
                continue
            if array.dtype not in EXTRA_TYPES.values():
                array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
            if array.dtype.kind != "f" or not np.isnan(array).any():
                extras[key] = array
        return extras

    def _error(self, found: str, fix: str, step: int | None = None) -> SettingError:
        where = f"in {self.place}" if step is None else f"at step {step} of {self.place}"
        return SettingError(self.label, f"{found} {where}", fix)


def clip_rounding(action: np.ndarray) -> np.ndarray:
    """The actions, those that exceed [-1, 1] by at most ``ROUNDING`` clipped; NaN and all else as they are."""
    return np.where(np.abs(action) <= 1 + ROUNDING, np.clip(action, -1, 1), action)


def column(array: np.ndarray) -> np.ndarray:
    """[T, 1] as [T]; all else as it is."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def step_rows(values: Any, steps: int) -> np.ndarray | None:
    """An info as a numeric array of ``steps`` rows, the reset's row dropped; None where it is nothing of the kind."""
    if isinstance(values, Mapping):
        return None
    array = np.asarray(values)
    if array.ndim == 0 or array.dtype.kind not in "biuf" or len(array) not in (steps, steps + 1):
        return None
    return array[-steps:]
