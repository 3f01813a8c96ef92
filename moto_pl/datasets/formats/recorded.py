"""An episode as some format holds it, before anything is chosen, resized or trimmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from moto_pl.envs.actions import ActionScale
from moto_pl.errors import SettingError

MAX_PIXELS = 1 << 24
"""Pixels that one frame may have: a file of a few bytes may claim any number."""
MAX_STEPS = 1_000_000
"""Steps that one episode may have."""
COPY_AGAIN = "Copy it again, or keep what is whole: --keep_whole_episodes."


class Damaged(SettingError):
    """What a source holds cannot be read: it was cut short, say. What lies before it may still be whole.

    Args:
        found: the file, the place in it, and what is wrong there.
        fix: what to do, as an instruction.
    """

    def __init__(self, found: object, fix: str = COPY_AGAIN) -> None:
        super().__init__("source", found, fix)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # To another process it is a refusal like any other.
        return SettingError, (self.setting, str(self.found), self.fix)


@dataclass(frozen=True)
class Camera:
    """The frames of one camera, decoded one by one when they are asked for.

    Attributes:
        count: how many there are.
        frames: begins anew at the first; each is uint8 [H, W, 3]. Raises :class:`Damaged` where one cannot be read.
    """

    count: int
    frames: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def of(cls, image: np.ndarray) -> Camera:
        """Frames that are in memory, uint8 [N, H, W, 3]."""
        return cls(len(image), lambda: iter(image))


@dataclass(frozen=True)
class Recorded:
    """T steps as a format has them.

    Attributes:
        place: of the episode, for an error: ``demo_3 of lift.hdf5``.
        cameras: by the format's own names: T + 1 frames each, or T where the one after the last step was not recorded.
        vectors: proprioception and other numbers seen beside the frames, by the format's own names: [T or T + 1, D].
        action: float [T, A].
        columns: numbers of each step, [T], by name: one of them may be the reward.
        success: whether each step led to success, bool [T]; None where the format does not say.
        terminated: the task ended with the last step; False where the format does not say.
        extras: arrays of T rows that the episode keeps (``Episode.extras``).
        info: plain values that it keeps.
    """

    place: str
    cameras: Mapping[str, Camera]
    vectors: Mapping[str, np.ndarray]
    action: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    success: np.ndarray | None = None
    terminated: bool = False
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.action)
        if self.action.ndim != 2 or self.action.dtype.kind != "f" or not self.action.shape[1]:
            found = f"actions {self.action.dtype} {self.action.shape} in {self.place}"
            raise SettingError("source", found, "Expected numbers, one row a step: write it again.")
        if not 1 <= steps <= MAX_STEPS:
            raise SettingError("source", f"{steps:,} steps in {self.place}", f"Expected 1 to {MAX_STEPS:,}.")
        for name, array in self.vectors.items():
            if array.ndim != 2 or array.dtype.kind not in "fiub":
                found = f"{name} {array.dtype} {array.shape} in {self.place}"
                raise SettingError("source", found, "Expected a vector of numbers a row: write it again.")
        counts = {name: camera.count for name, camera in self.cameras.items()}
        counts |= {name: len(array) for name, array in self.vectors.items()}
        for name, count in counts.items():
            if count not in (steps, steps + 1):
                found = f"{count} rows of {name} for {steps} actions in {self.place}"
                raise SettingError("source", found, f"Expected {steps} or {steps + 1}: record it again.")
        for name, array in {"the action": self.action, **self.vectors}.items():
            bad = ~np.isfinite(array)
            if bad.any():
                row, dimension = np.argwhere(bad)[0]
                found = f"{array[row, dimension]} in {name} (dimension {dimension}) at step {row} of {self.place}"
                raise SettingError("source", found, "Numbers must be finite: leave the episode out, or mend it.")
        for name, column in self.columns.items():
            if column.shape != (steps,):
                found = f"{name} {column.shape} for {steps} actions in {self.place}"
                raise SettingError("source", found, "Expected one number a step: write it again.")


class Source(Protocol):
    """Recorded episodes of one format, read one at a time.

    Attributes:
        cameras: names of what holds frames.
        vectors: names of what holds a vector of numbers for each frame.
        columns: names of what may be taken for the reward.
        reward: the one of them that the format calls the reward, or None.
        fps: steps a second, where the format says so.
        actions: the bounds of the Box of actions, where the format declares one.
    """

    cameras: tuple[str, ...]
    vectors: tuple[str, ...]
    columns: tuple[str, ...]
    reward: str | None
    fps: float | None = None
    actions: ActionScale | None = None

    def __len__(self) -> int:
        """Episodes."""
        ...

    def read(self, index: int) -> Recorded:
        """One episode; its frames are not decoded yet.

        Raises:
            Damaged: it cannot be read.
            SettingError: it is not what the format says.
        """
        ...


@contextmanager
def reading(path: Path, errors: tuple[type[Exception], ...], place: str = "") -> Iterator[None]:
    """A block that reads ``path``: what a library raises on a damaged file becomes the error for it.

    A SettingError, which says already what is wrong, stays as it is.

    Raises:
        Damaged: in place of ``errors``; names the place in the file.
    """
    try:
        yield
    except SettingError:
        raise
    except errors as error:
        raise damaged(path, error, place) from error


def damaged(path: Path, error: object, place: str = "") -> Damaged:
    """What to raise where reading ``path`` failed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Damaged(f"{place + ' of ' if place else ''}{path}, which cannot be read ({reason[:300]})")
