"""RLDS episodes in TFRecord files, as TensorFlow Datasets writes them (Open X-Embodiment), without TensorFlow.

A record is an episode; row t holds what was seen, the action taken then and its reward. The last row is the frame after
the last step: its action and reward say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moto_pl.datasets.formats.parquet import decode_image
from moto_pl.datasets.formats.recorded import Camera, Damaged, Recorded, Source
from moto_pl.datasets.formats.tfrecord import Values, offsets, read_record
from moto_pl.errors import SettingError

STEPS = "steps/"
COLUMNS = ("reward", "discount")
"""What is one number a step."""
_FLAGS = ("is_first", "is_last", "is_terminal")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff")


class RLDS(Source):
    """A file of episodes; see :class:`~moto_pl.datasets.formats.recorded.Source`.

    Of a file that was cut short, the last episode is the one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[tuple[int, int]] = []
        self._broken: Damaged | None = None
        try:
            for record in offsets(path):
                self._records.append(record)
        except Damaged as error:
            self._broken = error
        if self._broken is not None and not self._records:
            raise self._broken
        first = self._features(0) if self._records else {}
        self.cameras = tuple(name for name, values in first.items() if _is_camera(values))
        rows = max(1, len(first.get(_FLAGS[0], ())))
        self.vectors = tuple(name for name, values in first.items() if _is_vector(name, values, rows))
        self.columns = tuple(name for name in COLUMNS if isinstance(first.get(name), np.ndarray))
        self.reward = "reward" if "reward" in self.columns else None

    def __len__(self) -> int:
        return len(self._records) + (self._broken is not None)

    def read(self, index: int) -> Recorded:
        """One episode."""
        if index == len(self._records) and self._broken is not None:
            raise self._broken
        features = self._features(index)
        place = f"episode {index} of {self.path}"
        rows = self._rows(features, place)
        numbers = {name: values for name, values in features.items() if isinstance(values, np.ndarray)}
        if "action" not in numbers:
            parts = [name for name in features if name.startswith("action/")]
            found = "an action that is no numbers" if "action" in features else "no action"
            found = f"an action in {len(parts)} parts ({', '.join(parts)})" if parts else found
            fix = "One flat action a step is read: put the parts into one when writing."
            raise SettingError("source", f"{found} in {place}", fix)
        for name, values in numbers.items():
            if name in COLUMNS:
                wrong = len(values) != rows
            else:  # a vector a row, or integers that are not read
                wrong = len(values) % rows > 0 and (name == "action" or values.dtype.kind == "f")
            if wrong:
                raise SettingError("source", f"{len(values)} numbers of {name} in {rows} rows of {place}", "Mend it.")
        vectors = {name: values.reshape(rows, -1) for name, values in numbers.items() if _is_vector(name, values, rows)}
        cameras = {
            name: self._camera(values, name, rows, place) for name, values in features.items() if name in self.cameras
        }
        terminal = numbers.get("is_terminal")
        return Recorded(
            place=place,
            cameras=cameras,
            vectors=vectors,
            action=numbers["action"].reshape(rows, -1)[:-1],
            columns={name: numbers[name][: rows - 1].astype(np.float32) for name in self.columns if name in numbers},
            terminated=terminal is not None and bool(terminal[-1]),
            info={"source": f"{self.path.name}/{index}"},
        )

    def _features(self, index: int) -> dict[str, Values]:
        """What holds a value a step, without ``steps/`` before its name."""
        features = read_record(self.path, *self._records[index])
        return {name.removeprefix(STEPS): values for name, values in features.items() if name.startswith(STEPS)}

    def _rows(self, features: dict[str, Values], place: str) -> int:
        lengths = {len(features[name]) for name in _FLAGS if name in features}
        if len(lengths) != 1 or min(lengths) < 2:
            found = f"flags ({', '.join(_FLAGS)}) of {sorted(lengths)} rows in {place}"
            raise SettingError("source", found, "An RLDS episode has them, two rows or more.")
        return lengths.pop()

    def _camera(self, values: Values, name: str, rows: int, place: str) -> Camera:
        if len(values) != rows:
            found = f"{len(values)} frames of {name} for {rows} rows in {place}"
            raise SettingError("source", found, "Expected a frame a row: write it again.")

        short = place.partition(" of ")[0]

        def frames() -> Iterator[np.ndarray]:
            return (decode_image(bytes(content), self.path, f"{name} of {short}") for content in values)

        return Camera(rows, frames)


def recognises(path: Path) -> bool:
    """Whether a path is a file of records."""
    return ".tfrecord" in path.name and path.is_file()


def _is_vector(name: str, values: Values, rows: int) -> bool:
    """Whether a feature holds a vector of numbers for each of so many rows."""
    flat = isinstance(values, np.ndarray) and values.dtype.kind == "f" and len(values) >= rows
    return flat and name.startswith("observation/")


def _is_camera(values: Values) -> bool:
    return isinstance(values, list) and bool(values) and values[0].startswith(_SIGNATURES)
