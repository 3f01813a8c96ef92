"""What the HDF5 formats share: a file that was looked through, arrays that are read by rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from moto_pl.datasets.formats.recorded import MAX_PIXELS, MAX_STEPS, Camera, reading
from moto_pl.datasets.hdf5_check import check_hdf5
from moto_pl.errors import SettingError
from moto_pl.reading import open_regular

SIGNATURE = b"\x89HDF\r\n\x1a\n"
READ_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)
"""What h5py raises on a file that is damaged."""
ROWS = 64
"""Frames that are read at a time."""


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    if not path.is_file():
        return False
    try:
        with open_regular(path) as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def holds(path: Path, *names: str) -> bool:
    """Whether an HDF5 file has these entries; also where it is damaged behind them."""
    if not is_hdf5(path):
        return False
    checked(path)
    with h5py.File(path, "r") as file:
        return all(name in file for name in names)


def checked(path: Path) -> Path:
    """A file that is sound, and refers to no other.

    Raises:
        Damaged: it is not.
        SettingError: no process could look through it.
    """
    with reading(path, (OSError, ValueError)):
        check_hdf5(path)
    return path


def numbers(group: h5py.Group, name: str, ndim: int) -> np.ndarray:
    """An array of numbers in a group, read whole.

    Raises:
        SettingError: it is none, has another number of dimensions, or too many rows.
    """
    array = group.get(name)
    where = f"{group.name.rstrip('/')}/{name} of {group.file.filename}"
    if not isinstance(array, h5py.Dataset):
        raise SettingError("source", f"no {where}", "Write it again: it is what the format needs.")
    if array.ndim != ndim or array.dtype.kind not in "biuf" or len(array) > MAX_STEPS * 1000:
        raise SettingError(
            "source", f"{array.dtype} {array.shape} as {where}", f"Expected numbers in {ndim} dimensions."
        )
    return np.asarray(array[()])


def is_camera(item: object) -> bool:
    """Whether an entry holds frames: uint8 [N, H, W, 3], or [N, 3, H, W]."""
    return (
        isinstance(item, h5py.Dataset)
        and item.dtype == np.uint8
        and item.ndim == 4
        and 3 in (item.shape[3], item.shape[1])
        and 0 < item.shape[1] * item.shape[2] * item.shape[3] <= 3 * MAX_PIXELS
    )


def is_vector(item: object) -> bool:
    """Whether an entry holds one vector of numbers a row, or a single number."""
    return isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and item.ndim in (1, 2)


def vector(item: h5py.Dataset, rows: slice, last: np.ndarray | None = None) -> np.ndarray:
    """Vectors [n, D] of an entry.

    Args:
        item: the entry.
        rows: which of its rows.
        last: the row after these [1, D], or [1]; None: it was not recorded.
    """
    found = item[rows] if last is None else np.concatenate([item[rows], last])
    return found.reshape(len(found), -1)


def camera(path: Path, name: str, rows: range, last: tuple[str, int] | None = None) -> Camera:
    """Frames of a dataset, read some at a time.

    Args:
        path: the file.
        name: of the dataset in it.
        rows: which of its rows.
        last: another dataset and its row for the frame after these; None: it was not recorded.
    """

    def frames() -> Iterator[np.ndarray]:
        with reading(path, READ_ERRORS, name):
            with h5py.File(path, "r") as file:
                for start in range(rows.start, rows.stop, ROWS):
                    yield from _channel_last(file[name][start : min(start + ROWS, rows.stop)])
                if last is not None:
                    yield from _channel_last(file[last[0]][last[1] : last[1] + 1])

    return Camera(len(rows) + (last is not None), frames)


def _channel_last(block: np.ndarray) -> np.ndarray:
    return block if block.shape[3] == 3 else block.transpose(0, 2, 3, 1)
