"""From what a format holds to an ``Episode``: the camera that was chosen, resized; reward, success, steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from moto_pl.datasets.formats.options import SUCCESS_AT_END, Labels, Selection
from moto_pl.datasets.formats.recorded import Damaged, Recorded
from moto_pl.datasets.raw_episode import RawEpisode
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, InfoValue

if TYPE_CHECKING:  # it imports torch, which a list of verbs does not wait for
    from moto_pl.replay.store import EpisodeView


def convert(recorded: Recorded, selection: Selection, labels: Labels | None, number: int) -> Episode:
    """The episode that is stored.

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
    steps = len(recorded.action)
    reward, success = _reward(recorded, selection, labels, number)
    first, stop = selection.trim[0], steps - selection.trim[1]
    if stop - first < 1:
        setting = "trim_start" if selection.trim[0] else "trim_end"
        found = f"{sum(selection.trim)} steps to leave out of the {steps} in {recorded.place}"
        raise SettingError(setting, found, "Leave fewer out.")
    starts = np.arange(first, stop, selection.merge)
    ends = np.minimum(starts + selection.merge, stop)
    action = np.asarray(recorded.action, np.float32)
    if selection.merge_actions == "mean" and selection.merge > 1:
        pairs = zip(starts, ends, strict=True)
        action = np.stack([action[start:end].mean(axis=0, dtype=np.float64) for start, end in pairs]).astype(np.float32)
    else:
        action = action[ends - 1]
    count = len(starts)
    ended = np.zeros(count, bool)
    ended[-1] = recorded.terminated and stop == steps
    infos = {name: array[ends - 1] for name, array in recorded.extras.items()}
    if success is not None:
        infos["success"] = np.logical_or.reduceat(success[:stop], starts)
    raw = RawEpisode(
        "source",
        recorded.place,
        _frames(recorded, selection, [*starts.tolist(), stop]),
        action,
        np.add.reduceat(reward[:stop], starts, dtype=np.float64).astype(np.float32)
        if selection.merge > 1
        else reward[first:stop],
        ended,
        np.zeros(count, bool),
        infos,
    )
    info: dict[str, InfoValue] = dict(recorded.info)
    return raw.episode((selection.image_size, selection.image_size, 3), action.shape[1], info)


def resize(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame uint8 [H, W, 3] at size x size, by a triangle filter (Pillow's bilinear, which averages on the way down).

    One that has the size already stays as it is, to the bit.
    """
    if frame.shape == (size, size, 3):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))


def as_episode(view: EpisodeView) -> Episode:
    """A stored episode in memory."""
    return Episode(
        view.image, view.action, view.reward, view.terminated, view.truncated, view.success, view.extras, view.info
    )


def _frames(recorded: Recorded, selection: Selection, wanted: list[int]) -> np.ndarray:
    """The frames of these numbers, ascending, resized: uint8 [len(wanted), size, size, 3]."""
    camera = recorded.cameras.get(selection.camera)
    if camera is None:
        raise SettingError(
            "source", f"no {selection.camera} in {recorded.place}", "Choose a camera that each episode has."
        )
    size = selection.image_size
    image = np.empty((len(wanted), size, size, 3), np.uint8)
    numbered = enumerate(_checked(camera.frames(), recorded.place))
    for place, number in enumerate(wanted):
        if number == camera.count:  # which was not recorded
            number -= 1
            if place and wanted[place - 1] == number:
                image[place] = image[place - 1]
                continue
        frame = next((frame for found, frame in numbered if found == number), None)
        if frame is None:
            raise Damaged(f"{selection.camera} with fewer frames than its {camera.count} rows in {recorded.place}")
        image[place] = resize(frame, size)
    return image


def _checked(frames: Iterator[np.ndarray], place: str) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            found = f"a frame {frame.dtype} {frame.shape} in {place}"
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
