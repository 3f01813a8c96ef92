"""What a user may say about a source: which camera, which reward, which steps."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from moto_pl.datasets.formats.recorded import Source
from moto_pl.errors import SettingError
from moto_pl.reading import read_text

SUCCESS_AT_END = "success-at-end"
MAX_LABELS = 1 << 26
"""Bytes of a file of labels."""


@dataclass(frozen=True)
class Selection:
    """What is made of each recorded episode; everything is settled, so that any process does the same.

    Attributes:
        camera: the format's name of the camera that is kept.
        image_size: height and width of the frames that are kept.
        reward: a column's name, ``success-at-end``, or None where labels say it.
        success_reward: a step with this reward or more is a success; None: what the source says of success, else any
            reward above 0.
        merge: recorded steps that make one step.
        merge_actions: the action of such a step: the ``last`` recorded, or their ``mean``.
        trim: steps that are left out at the start and at the end.
    """

    camera: str
    image_size: int
    reward: str | None
    success_reward: float | None = None
    merge: int = 1
    merge_actions: Literal["last", "mean"] = "last"
    trim: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= 1024:
            raise SettingError("image_size", self.image_size, "Use 1 to 1024 pixels; 64 is what configurations expect.")
        for setting, steps in (("trim_start", self.trim[0]), ("trim_end", self.trim[1])):
            if steps < 0:
                raise SettingError(setting, steps, "Give a number of steps, 0 or more.")


@dataclass(frozen=True)
class Labels:
    """Rewards from a file: for each episode, one for its last step or some of each step.

    Attributes:
        path: the file.
        last: by episode, the reward of its last step.
        steps: by episode and step, the reward; steps that are not named have 0.
        success: whether ``last`` says success rather than a reward.
    """

    path: Path
    last: dict[int, float]
    steps: dict[int, dict[int, float]]
    success: bool

    def reward(self, episode: int, length: int, place: str) -> np.ndarray:
        """The rewards of an episode, float32 [length].

        Raises:
            SettingError: the file says nothing of it, or names a step that it does not have.
        """
        reward = np.zeros(length, np.float32)
        if episode in self.last:
            reward[-1] = self.last[episode]
        elif episode in self.steps:
            for step, value in self.steps[episode].items():
                if step >= length:
                    found = f"{self.path}: step {step} of episode {episode}, which has {length} ({place})"
                    raise SettingError("--reward", found, "Count steps from 0, as they were recorded.")
                reward[step] = value
        else:
            fix = "Give each episode a line: they are counted from 0, in the order of the source."
            raise SettingError("--reward", f"{self.path}: no line for episode {episode} ({place})", fix)
        return reward


def choose_camera(source: Source, cameras: Sequence[str]) -> dict[str, str]:
    """The one camera to keep: the name that the user gives it (``image`` without one), and the format's.

    Args:
        source: what there is.
        cameras: of ``--cameras``: ``NAME=CAMERA``, or ``CAMERA``.

    Raises:
        SettingError: there is none, there are several and none was chosen, or the chosen one is not there.
    """
    there = ", ".join(source.cameras)
    if not source.cameras:
        fix = "Give a dataset with a camera (uint8 height x width x 3, or video): states alone are not learned from."
        raise SettingError("source", "no camera in it", fix)
    if not cameras:
        if len(source.cameras) > 1:
            found = f"{len(source.cameras)} cameras ({there}) and none chosen"
            raise SettingError("--cameras", found, f"Choose one, such as: --cameras front={source.cameras[0]}")
        return {"image": source.cameras[0]}
    if len(cameras) > 1:
        raise SettingError("--cameras", " ".join(cameras), "Choose one: a dataset holds the frames of one camera.")
    name, equals, camera = cameras[0].rpartition("=")
    if equals and not name.isidentifier():
        raise SettingError("--cameras", cameras[0], "Write NAME=CAMERA, such as front=top.")
    if camera not in source.cameras:
        near = difflib.get_close_matches(camera, source.cameras, n=1)
        guess = f"Did you mean {near[0]}? " if near else ""
        raise SettingError("--cameras", f"{camera!r}, which is not there", f"{guess}There is {there}.")
    return {name or "image": camera}


def choose_reward(source: Source, reward: str | None) -> str | Labels:
    """Where rewards come from: a column, ``success-at-end``, or a file's labels.

    Raises:
        SettingError: the source has none and none was chosen, or the choice is nothing of these.
    """
    ways = f"{SUCCESS_AT_END}, or a labels file (a .csv)"
    if source.columns:
        ways = f"a column ({', '.join(source.columns)}), {ways}"
    if reward is None:
        if source.reward is None:
            raise SettingError("--reward", "no reward in the source, and none chosen", f"Give --reward: {ways}.")
        return source.reward
    if reward == SUCCESS_AT_END or reward in source.columns:
        return reward
    if reward.endswith(".csv"):
        return read_labels(Path(reward))
    raise SettingError("--reward", repr(reward), f"Give {ways}.")


def read_labels(path: Path) -> Labels:
    """Reads a file of labels: ``episode,success``, ``episode,reward`` or ``episode,step,reward`` and a line for each.

    Raises:
        SettingError: it cannot be read, or a line is something else.
    """
    try:
        rows = list(csv.reader(read_text(path, MAX_LABELS).splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        fix = "Give a text file: episode,success in its first line, then a line for each."
        raise SettingError("--reward", f"{path}, which cannot be read ({error})", fix) from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if header not in (["episode", "success"], ["episode", "reward"], ["episode", "step", "reward"]):
        fix = "Begin it with episode,success or episode,reward or episode,step,reward."
        raise SettingError("--reward", f"{path}: a first line of {','.join(header)[:80]!r}", fix)
    last: dict[int, float] = {}
    steps: dict[int, dict[int, float]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        try:
            numbers = [int(cell) for cell in row[:-1]]
            value = _success(row[-1]) if header[-1] == "success" else float(row[-1])
            if len(row) != len(header) or min(numbers) < 0 or not np.isfinite(value):
                raise ValueError
        except ValueError:
            fix = f"Write {','.join(header)}: counted from 0, finite numbers; success is 0 or 1."
            raise SettingError("--reward", f"{path}: {','.join(row)[:80]!r} in line {line}", fix) from None
        into, key = (last, numbers[0]) if len(numbers) == 1 else (steps.setdefault(numbers[0], {}), numbers[1])
        if key in into:
            raise SettingError("--reward", f"{path}: a second label in line {line}", "Give each one line.")
        into[key] = value
    return Labels(path, last, steps, header[-1] == "success")


def _success(cell: str) -> float:
    return {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}.get(cell.strip().lower(), float("nan"))


def merged_steps(source: Source, fps: float | None) -> int:
    """Recorded steps that make one step at ``fps``.

    Raises:
        SettingError: the source does not say its rate, or it is no multiple of ``fps``.
    """
    if fps is None:
        return 1
    if source.fps is None:
        raise SettingError("--fps", fps, "The source does not say at which rate it was recorded: leave it out.")
    merge = round(source.fps / fps) if 0 < fps <= source.fps else 0
    if merge < 1 or abs(merge * fps - source.fps) > 1e-3 * source.fps:
        rates = ", ".join(f"{source.fps / n:g}" for n in (1, 2, 3, 4, 5))
        raise SettingError("--fps", fps, f"It was recorded at {source.fps:g}: use a whole part of that ({rates}, ...).")
    return merge
