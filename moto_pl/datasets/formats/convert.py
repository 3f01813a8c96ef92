"""From what a format holds to an ``Episode``: the chosen cameras, resized, and vectors; reward, success, steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moto_pl.datasets.formats.options import SUCCESS_AT_END, Labels, Selection
from moto_pl.datasets.formats.recorded import Damaged, Recorded
from moto_pl.datasets.own_actions import UNIT, ExactScale
from moto_pl.datasets.raw_episode import ROUNDING, RawEpisode
from moto_pl.envs.observation import joined, stacked
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, InfoValue


def convert(recorded: Recorded, selection: Selection, labels: Labels | None, number: int) -> Episode:
    """The episode that is stored until all are read: its actions may have been divided, by ``info[UNIT]``.

    Where the frame after the last step was not recorded, the last one stands for it: so no action and no reward is
    lost.

    Args:
        recorded: what the format holds.
        selection: what is wanted of it.
        labels: rewards, where ``selection.reward`` is None.
        number: of the episode in the source, for its labels.

    Raises:
        Damaged: a frame cannot be read.
        SettingError: too few steps are left, or a value is out of range.
    """
    reward, success = _reward(recorded, selection, labels, number)
    starts, stop = _steps(recorded, selection)
    ends = np.minimum(starts + selection.merge, stop)
    seen = [*starts.tolist(), stop]
    action = _actions(recorded, selection, starts, ends)
    scale = ExactScale.fitting(action)
    ended = np.zeros(len(starts), bool)
    ended[-1] = recorded.terminated and stop == len(recorded.action)
    infos = {name: array[ends - 1] for name, array in recorded.extras.items()}
    if success is not None:
        infos["success"] = np.logical_or.reduceat(success[:stop], starts)
    merged = np.add.reduceat(reward[:stop], starts, dtype=np.float64).astype(np.float32)
    raw = RawEpisode(
        "source",
        recorded.place,
        stacked([_frames(recorded, camera, selection.image_size, seen) for camera in selection.cameras.values()]),
        action,
        merged if selection.merge > 1 else reward[starts[0] : stop],
        ended,
        np.zeros(len(starts), bool),
        infos,
        joined([_vectors(recorded, own, selection.sizes.get(name, 0), seen) for name, own in selection.state.items()]),
        scale,
    )
    info: dict[str, InfoValue] = dict(recorded.info) | ({} if scale.unit == 1 else {UNIT: scale.unit})
    size = selection.image_size
    return raw.episode((size, size, 3 * len(selection.cameras)), action.shape[1], info)


def _steps(recorded: Recorded, selection: Selection) -> tuple[np.ndarray, int]:
    """The first recorded step of each that is kept, and the one behind the last.

    Raises:
        SettingError: none is left.
    """
    steps = len(recorded.action)
    first, stop = selection.trim[0], steps - selection.trim[1]
    if stop - first < 1:
        setting = "trim_start" if selection.trim[0] else "trim_end"
        found = f"{sum(selection.trim)} steps to leave out of the {steps} in {recorded.place}"
        raise SettingError(setting, found, "Leave fewer out.")
    return np.arange(first, stop, selection.merge), stop


def _actions(recorded: Recorded, selection: Selection, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The action of each step that is kept, float32 [T, A].

    Raises:
        SettingError: one is not within the bounds that the user, or the format, gives for all.
    """
    action = np.asarray(recorded.action, np.float32)
    if selection.merge_actions == "mean" and selection.merge > 1:
        pairs = zip(starts, ends, strict=True)
        action = np.stack([action[start:end].mean(axis=0, dtype=np.float64) for start, end in pairs]).astype(np.float32)
    else:
        action = action[ends - 1]
    bounds = selection.bounds
    if bounds is not None and len(bounds.low) == action.shape[1]:
        outside = np.abs(bounds.to_policy(action)) > 1 + ROUNDING
        if outside.any():
            step, place = np.argwhere(outside)[0]
            found = f"the action {action[step, place]:g} (dimension {place}) at step {starts[step]} of {recorded.place}"
            within = f"[{bounds.low[place]:g}, {bounds.high[place]:g}]"
            raise SettingError("--action_bounds", f"{within}, and {found}", "Give bounds that hold all actions.")
    return action


def _vectors(recorded: Recorded, name: str, size: int, wanted: list[int]) -> np.ndarray:
    """The rows of a vector, float32 [len(wanted), size]; the last stands for one that was not recorded."""
    rows = recorded.vectors.get(name)
    if rows is None:
        fix = "Choose vectors that each episode has."
        raise SettingError("--state", f"no {name} in {recorded.place}", fix)
    if rows.shape[1] != size:
        found = f"{name} of {rows.shape[1]} numbers in {recorded.place}, and of {size} in the first episode"
        raise SettingError("--state", found, "Choose vectors that each episode has alike.")
    return np.asarray(rows[np.minimum(wanted, len(rows) - 1)], np.float32)


def _frames(recorded: Recorded, name: str, size: int, wanted: list[int]) -> np.ndarray:
    """A camera's frames of these numbers, ascending, resized: uint8 [len(wanted), size, size, 3]."""
    camera = recorded.cameras.get(name)
    if camera is None:
        raise SettingError("source", f"no {name} in {recorded.place}", "Choose cameras that each episode has.")
    image = np.empty((len(wanted), size, size, 3), np.uint8)
    numbered = enumerate(_checked(camera.frames(), f"{name} in {recorded.place}"))
    for place, number in enumerate(wanted):
        if number == camera.count:  # which was not recorded
            number -= 1
            if place and wanted[place - 1] == number:
                image[place] = image[place - 1]
                continue
        frame = next((frame for found, frame in numbered if found == number), None)
        if frame is None:
            raise Damaged(f"{name} with fewer frames than its {camera.count} rows in {recorded.place}")
        image[place] = resize(frame, size)
    return image


def _checked(frames: Iterator[np.ndarray], place: str) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            found = f"a frame {frame.dtype} {frame.shape} of {place}"
            raise SettingError("source", found, "Expected uint8 height x width x 3: choose another camera.")
        yield frame


def _reward(
    recorded: Recorded, selection: Selection, labels: Labels | None, number: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rewards float32 [T], and success bool [T] or None: a reward above 0."""
    steps = len(recorded.action)
    success = recorded.success
    if labels is not None:
        reward = labels.reward(number, steps, recorded.place)
        success = reward > 0 if labels.success else None
    elif selection.reward == SUCCESS_AT_END:
        reward = np.zeros(steps, np.float32)
        reward[-1] = 1.0 if success is None else float(success.any())
        success = reward > 0
    elif selection.reward is not None and selection.reward in recorded.columns:
        reward = np.asarray(recorded.columns[selection.reward], np.float32)
    else:
        found = f"no column {selection.reward} in {recorded.place}"
        raise SettingError("--reward", found, "Choose one that each episode has.")
    if selection.success_reward is not None:
        success = reward >= selection.success_reward
    return reward, success
