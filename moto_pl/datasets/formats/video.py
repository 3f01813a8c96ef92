"""Frames of an mp4, by the times at which they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moto_pl.datasets.formats.recorded import MAX_PIXELS, Damaged, reading
from moto_pl.errors import MachineError
from moto_pl.reading import open_regular


def pyav() -> Any:
    """The package, which is an extra.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import av
        import av.error
    except ImportError as error:
        fix = 'Install what decodes it: pip install "moto_pl[lerobot]".'
        raise MachineError("source", "frames in mp4 files, and no av", fix) from error
    return av


def frames(path: Path, times: np.ndarray, fps: float, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames shown at some times.

    Args:
        path: a regular file. It is read as an mp4 whatever it is, so that none that names other files or hosts is
            followed.
        times: seconds from the file's beginning, ascending.
        fps: frames a second; a frame within half its time of a wanted one is taken for it.
        shape: height and width that the frames have to have.

    Yields:
        uint8 [H, W, 3] each.

    Raises:
        Damaged: it cannot be read, frames have another size, or one is missing.
    """
    av = pyav()
    with reading(path, (av.error.FFmpegError, OSError, ValueError, IndexError, TypeError, OverflowError, MemoryError)):
        with open_regular(path) as file, av.open(file, format="mp4") as container:
            yield from _decoded(path, container, times, fps, shape)


def _decoded(path: Path, container: Any, times: np.ndarray, fps: float, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    stream = container.streams.video[0]
    _check_size(path, stream.codec_context, shape)
    stream.codec_context.thread_count = 1  # other processes decode other episodes
    unit = float(stream.time_base)
    if times[0] > 1 / fps:
        container.seek(max(0, int((times[0] - 0.5 / fps) / unit)), stream=stream)
    found = 0
    for frame in container.decode(stream):
        shown = frame.pts * unit
        while found < len(times) and abs(shown - times[found]) <= 0.5 / fps:
            _check_size(path, frame, shape)
            yield frame.to_ndarray(format="rgb24")
            found += 1
        if found == len(times):
            return
        if shown > times[found] + 0.5 / fps:
            break
    raise Damaged(f"{path}, which has no frame at {times[found]:.3f} s, row {found} of {len(times)}")


def _check_size(path: Path, sized: Any, shape: tuple[int, int]) -> None:
    if (sized.height, sized.width) != shape or sized.height * sized.width > MAX_PIXELS:
        found = f"{path}: frames of {sized.height} x {sized.width}, not {shape[0]} x {shape[1]} as meta/info.json says"
        raise Damaged(found, "Copy the dataset again.")
