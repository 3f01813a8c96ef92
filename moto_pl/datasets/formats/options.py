"""What a user may say about a source: which cameras and vectors, which actions, which reward, which steps."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from moto_pl.datasets.formats.recorded import Source
from moto_pl.envs.actions import ActionScale
from moto_pl.errors import SettingError, did_you_mean
from moto_pl.reading import read_text

SUCCESS_AT_END = "success-at-end"
MAX_LABELS = 1 << 26
"""Bytes of a file of labels."""


@dataclass(frozen=True)
class Selection:
    """What is made of each recorded episode; everything is settled, so that any process does the same.

    Attributes:
        cameras: the format's names of the cameras that are kept, by the names that they get.
        image_size: height and width of the frames that are kept.
        state: the same of the vectors; none by default.
        sizes: how many numbers each of these has, by the name that it gets.
        bounds: lowest and highest action, for each number, of the Box that holds all; None: of the data's own.
        reward: a column's name, ``success-at-end``, or None where labels say it.
        success_reward: a step with this reward or more is a success; None: what the source says of success, else any
            reward above 0.
        merge: recorded steps that make one step.
        merge_actions: the action of such a step: the ``last`` recorded, or their ``mean``.
        trim: steps that are left out at the start and at the end.
    """

    cameras: dict[str, str]
    image_size: int
    reward: str | None
    state: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    bounds: ActionScale | None = None
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


class Words(NamedTuple):
    """What a user says about a source, as the options of ``moto data import`` say it."""

    cameras: Sequence[str] = ()
    state: Sequence[str] = ()
    action_bounds: Sequence[float] = ()
    reward: str | None = None
    success_reward: float | None = None
    fps: float | None = None
    merge_actions: Literal["last", "mean"] = "last"
    trim: tuple[int, int] = (0, 0)
    image_size: int = 64


def select(source: Source, words: Words) -> tuple[Selection, Labels | None]:
    """What the words mean for a source that has an episode, and the labels that they name.

    Raises:
        SettingError: a word means nothing for it.
    """
    cameras = choose_cameras(source, words.cameras)
    state = choose_state(source, words.state, cameras)
    vectors = source.read(0).vectors if state else {}
    rule = choose_reward(source, words.reward)
    selection = Selection(
        cameras=cameras,
        image_size=words.image_size,
        reward=rule if isinstance(rule, str) else None,
        state=state,
        sizes={name: vectors[own].shape[1] for name, own in state.items() if own in vectors},
        bounds=choose_bounds(source, words.action_bounds),
        success_reward=words.success_reward,
        merge=merged_steps(source, words.fps),
        merge_actions=words.merge_actions,
        trim=words.trim,
    )
    return selection, rule if isinstance(rule, Labels) else None


def choose_cameras(source: Source, words: Sequence[str]) -> dict[str, str]:
    """The format's cameras to keep, by the names that they get: one alone is ``image`` unless the user names it.

    Args:
        source: what there is.
        words: of ``--cameras``: ``NAME=CAMERA`` each, or ``CAMERA``.

    Raises:
        SettingError: there is none, there are several and none was chosen, or a chosen one is not there.
    """
    if not source.cameras:
        fix = "Give a dataset with a camera (uint8 height x width x 3, or video): states alone are not learned from."
        raise SettingError("source", "no camera in it", fix)
    if not words:
        if len(source.cameras) > 1:
            found = f"{len(source.cameras)} cameras ({', '.join(source.cameras)}) and none chosen"
            raise SettingError("--cameras", found, f"Choose some, such as: --cameras front={source.cameras[0]}")
        return {"image": source.cameras[0]}
    if len(words) == 1 and "=" not in words[0]:
        words = [f"image={words[0]}"]
    return _named("--cameras", words, source.cameras, "front=top")


def choose_state(source: Source, words: Sequence[str], cameras: Mapping[str, str]) -> dict[str, str]:
    """The format's vectors to keep, by the names that they get; none where none is asked for.

    Args:
        source: what there is.
        words: of ``--state``: ``NAME=VECTOR`` each, or ``VECTOR``.
        cameras: what is kept beside them.

    Raises:
        SettingError: a chosen one is not there, or has the name of a camera.
    """
    if words and not source.vectors:
        raise SettingError("--state", " ".join(words), "Leave it out: the source has no vectors.")
    chosen = _named("--state", words, source.vectors, "qpos=observation.state")
    if both := sorted(chosen.keys() & cameras.keys()):
        raise SettingError("--state", f"{both[0]}, as a camera is called", f"Give another: --state NAME={both[0]}.")
    return chosen


def _named(setting: str, words: Sequence[str], offered: Sequence[str], example: str) -> dict[str, str]:
    """What a format calls each of the chosen, by the names that they get: the last part of a dotted name, if none."""
    chosen: dict[str, str] = {}
    for word in words:
        name, equals, wanted = word.partition("=")
        if not equals or word in offered:
            name, equals, wanted = re.split(r"[./]", word)[-1], "=", word
        if wanted not in offered:
            guess = did_you_mean(wanted, offered, n=1)
            raise SettingError(setting, f"{wanted!r}, which is not there", f"{guess}There is {', '.join(offered)}.")
        if not name.isidentifier():
            raise SettingError(setting, word, f"Write NAME={wanted}, such as {example}; NAME has letters and digits.")
        if name in chosen or wanted in chosen.values():
            twice = name if name in chosen else wanted
            raise SettingError(setting, f"{twice} twice", f"Name each once: {setting} NAME={wanted}.")
        chosen[name] = wanted
    return chosen


def choose_bounds(source: Source, numbers: Sequence[float]) -> ActionScale | None:
    """The bounds of the Box of actions: the user's, else the format's own, else None.

    Args:
        source: what there is.
        numbers: of ``--action_bounds``: lowest and highest of all, or the lowest of each and then the highest of each.

    Raises:
        SettingError: another count, or a lowest that is not below its highest.
    """
    if not numbers:
        return source.actions
    size = source.read(0).action.shape[1]
    if len(numbers) not in (2, 2 * size):
        fix = f"Give 2 (lowest, highest), or {2 * size}: the lowest of each of the {size}, then the highest of each."
        raise SettingError("--action_bounds", f"{len(numbers)} numbers", fix)
    low, high = np.broadcast_to(np.reshape(np.asarray(numbers, np.float64), (2, -1)), (2, size)).astype(np.float32)
    if not np.isfinite([low, high]).all() or not (low < high).all():
        fix = "Give finite numbers, each lowest below its highest."
        raise SettingError("--action_bounds", " ".join(f"{number:g}" for number in numbers), fix)
    return ActionScale.of(low, high)


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
