"""An episode's file, in the safetensors layout: written, looked at, held against its checksum, mapped.

The header's length (8 bytes, little-endian), a JSON header that names each array's type, shape and place, then the
arrays. Frames lie there once, channel-first, and actions and rewards in the learner's rows, so that a sequence is one
contiguous read. Written and read by hand, on purpose: a file is held against its checksum and against its own size
before anything is made of it, and thousands stay mapped without being open.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from moto_pl.errors import SettingError
from moto_pl.reading import open_descriptor, parse_json
from moto_pl.replay.episode import EXTRA_NAME, EXTRA_TYPES, Episode, EpisodeFigures, InfoValue, rows

_ALIGNMENT = 64
_MAX_HEADER = 2**20
_FIXED = {"image": ("U8", 4), "action": ("F32", 2), "reward": ("F32", 1), "success": ("BOOL", 1)}
_OPTIONAL = {"vector": ("F32", 2)}  # the state vectors, where they are learned from
_METADATA = ("crc32", "info", "terminated", "truncated")
_DAMAGED = "Take it from a copy of the replay directory, or delete that directory and start anew."
#: Bytes of a read where the header is wanted, which few exceed, and where all is.
_HEADER_READ, _READ = 4096, 2 * _MAX_HEADER
#: Of madvise (mman.h).
_MADV_WILLNEED = 3


class FileFacts(NamedTuple):
    """What a look at an episode's file has found.

    Attributes:
        num_rows: rows of the learner.
        crc: CRC-32 of what the file holds.
        header_bytes: where its data begins.
        header_crc: CRC-32 of the bytes before.
        start_crc: CRC-32 of what the header says, which the data's goes on from to ``crc``.
        nbytes: its size; this and what follows is what its directory says of it.
        inode: its number.
        modified_ns: when its content changed, in nanoseconds.
        changed_ns: when its content, name or rights changed, which cannot be set.
    """

    num_rows: int
    crc: int
    header_bytes: int
    header_crc: int
    start_crc: int
    nbytes: int
    inode: int
    modified_ns: int
    changed_ns: int

    def are_of(self, status: os.stat_result) -> bool:
        """Whether this is still that file, as far as its directory says."""
        return self[5:] == _listed(status)


def _listed(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, eq=False)
class EpisodeView(EpisodeFigures):
    """A stored episode of T steps, its arrays mapped from the file (read-only).

    Attributes:
        path: the file.
        image_rows: uint8 [T + 1, 3 * M, H, W].
        action_rows: float32 [T + 1, A]; row t holds the action that led to frame t.
        reward_rows: float32 [T + 1].
        success: bool [T].
        extras: further arrays with leading dimension T.
        terminated: the task ended.
        truncated: it was cut off.
        info: where it came from.
        crc: CRC-32 of what the file holds.
        nbytes: the file's size.
        vector: float32 [T + 1, V], the state vectors seen with each frame; None where there are none.
    """

    path: Path
    image_rows: np.ndarray
    action_rows: np.ndarray
    reward_rows: np.ndarray
    success: np.ndarray
    extras: dict[str, np.ndarray]
    terminated: bool
    truncated: bool
    info: dict[str, InfoValue]
    crc: int
    nbytes: int
    vector: np.ndarray | None = None

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that sequences are made of, [T + 1, ...] each: images, actions, rewards, and vectors if there are any."""
        found = self.image_rows, self.action_rows, self.reward_rows
        return found if self.vector is None else (*found, self.vector)

    @property
    def image(self) -> np.ndarray:
        """uint8 [T + 1, H, W, 3 * M], as in :class:`Episode` (not contiguous)."""
        return self.image_rows.transpose(0, 2, 3, 1)

    @property
    def action(self) -> np.ndarray:
        """float32 [T, A], as in :class:`Episode`."""
        return self.action_rows[1:]

    @property
    def reward(self) -> np.ndarray:  # type: ignore[override]
        """float32 [T], as in :class:`Episode`."""
        return self.reward_rows[1:]

    @property
    def num_rows(self) -> int:
        """Rows of the learner: T + 1."""
        return len(self.reward_rows)

    def as_episode(self) -> Episode:
        """The same as an :class:`Episode`, whose arrays are still those of the file."""
        fields = self.image, self.action, self.reward, self.terminated, self.truncated, self.success, self.extras
        return Episode(*fields, self.info, self.vector)


def encode(episode: Episode) -> tuple[bytes, list[memoryview]]:
    """The header (with its length) and the arrays of an episode's file, in their order there."""
    learner = rows(episode)
    named: dict[str, tuple[str, np.ndarray]] = {
        "image": ("U8", learner.image),
        "action": ("F32", learner.action),
        "reward": ("F32", learner.reward),
        "success": ("BOOL", episode.success),
    }
    if learner.vector is not None:
        named["vector"] = ("F32", learner.vector)
    types = {dtype: name for name, dtype in EXTRA_TYPES.items()}
    for name, array in episode.extras.items():
        named[f"extras.{name}"] = (types[array.dtype], array)
    header: dict[str, Any] = {}
    arrays, end = [], 0
    # Wide types first: so each array starts at a multiple of its item's size, without holes, which the layout forbids.
    for name, (kind, array) in sorted(named.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        arrays.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    metadata = {
        "info": json.dumps(episode.info, sort_keys=True),
        "terminated": json.dumps(episode.terminated),
        "truncated": json.dumps(episode.truncated),
    }
    metadata["crc32"] = str(checksum(header, metadata, arrays))
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    if len(text) > _MAX_HEADER - _ALIGNMENT:
        raise SettingError("episode.info", f"{len(text)} bytes", f"Give less than {_MAX_HEADER} bytes of text.")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, arrays


def checksum(header: dict[str, Any], metadata: dict[str, str], parts: Sequence[memoryview]) -> int:
    """CRC-32 of all that an episode's file says, header and data."""
    crc = zlib.crc32(json.dumps([header, metadata], sort_keys=True).encode())
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor to read it with. Whatever is in the file, an error names it, and what is wrong with it."""
    try:
        file = open_descriptor(path)
        try:
            yield file
        finally:
            os.close(file)
    except FileNotFoundError as error:
        raise SettingError(str(path), "no such file", _DAMAGED) from error
    except OSError as error:
        raise SettingError(str(path), error.strerror, "Make it a file that can be read.") from error
    except (_Damaged, ValueError, TypeError, KeyError, RecursionError) as error:
        raise SettingError(str(path), f"a damaged file ({error})", _DAMAGED) from error


class _Damaged(Exception):
    """What is wrong with a file."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise _Damaged(message)


def look_at(path: Path) -> FileFacts:
    """Reads an episode's header, and none of its data.

    Raises:
        SettingError: names the file, and what is wrong with it.
    """
    with _opened(path) as file:
        status = os.fstat(file)
        return _header(file, status.st_size, os.read(file, _HEADER_READ)).facts(status)


def check_episode(path: Path, known: FileFacts | None = None) -> FileFacts:
    """Reads every byte of an episode's file.

    Args:
        path: the file.
        known: what was found in it before: a header that is still the same is not taken apart again.

    Raises:
        SettingError: names the file, and what is wrong with it.
    """
    with _opened(path) as file:
        status = os.fstat(file)
        size, start = status.st_size, os.read(file, _READ)
        if known and (size, zlib.crc32(start[: known.header_bytes])) == (known.nbytes, known.header_crc):
            facts = FileFacts(*known[:5], *_listed(status))
        else:
            facts = _header(file, size, start).facts(status)
        crc, place = zlib.crc32(memoryview(start)[facts.header_bytes :], facts.start_crc), len(start)
        while part := os.pread(file, _READ, place):
            crc, place = zlib.crc32(part, crc), place + len(part)
        _need(place == size and crc == facts.crc, "its checksum does not match its content")
        return facts


def map_episode(path: Path) -> EpisodeView:
    """Maps an episode's file; of its data nothing is read.

    Raises:
        SettingError: names the file, and what is wrong with it.
    """
    with _opened(path) as file:
        size = os.fstat(file).st_size
        header = _header(file, size, os.read(file, _HEADER_READ))
        data = _mapped(file, size)[header.nbytes :]
    arrays = {
        name: data[start:stop].view(dtype).reshape(shape) for name, (dtype, shape, start, stop) in header.arrays.items()
    }
    return EpisodeView(
        path=path,
        image_rows=arrays["image"],
        action_rows=arrays["action"],
        reward_rows=arrays["reward"],
        success=arrays["success"],
        extras={name[len("extras.") :]: array for name, array in arrays.items() if name.startswith("extras.")},
        terminated=header.terminated,
        truncated=header.truncated,
        info=header.info,
        crc=header.crc,
        nbytes=size,
        vector=arrays.get("vector"),
    )


def _mapped(file: int, size: int) -> np.ndarray:
    """The bytes of an open file, read-only. Unlike Python's own, this mapping keeps no file open: a store has many."""
    array: np.ndarray = torch.from_file(f"/proc/self/fd/{file}", shared=False, size=size, dtype=torch.uint8).numpy()
    array.flags.writeable = False
    return array


def will_need(rows: Iterable[np.ndarray]) -> None:
    """Has the system read these rows of mapped files, all at once and no others.

    Where they are touched unread, each fault reads what lies around it too, as far as the device's read-ahead goes,
    which may be megabytes.

    Args:
        rows: arrays whose bytes lie side by side in a mapping.
    """
    for array in rows:
        place = array.__array_interface__["data"][0]
        before = place % mmap.PAGESIZE
        _madvise(place - before, before + array.nbytes, _MADV_WILLNEED)  # advice: nothing is lost where it is refused


_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Header(NamedTuple):
    """An episode's header, held against its file's size: all that it says is so. Arrays: type, shape, place in data."""

    num_rows: int
    nbytes: int
    text_crc: int
    start_crc: int
    crc: int
    arrays: dict[str, tuple[np.dtype, list[int], int, int]]
    info: dict[str, InfoValue]
    terminated: bool
    truncated: bool

    def facts(self, status: os.stat_result) -> FileFacts:
        """What is kept of it."""
        return FileFacts(self.num_rows, self.crc, self.nbytes, self.text_crc, self.start_crc, *_listed(status))


def _header(file: int, size: int, start: bytes) -> _Header:
    """The header of an open file of ``size`` bytes, which begins with ``start``."""
    _need(len(start) >= 8, f"{size} bytes")
    # Sizes that a file claims are held against its real size before anything of that size is allocated.
    text_size = int.from_bytes(start[:8], "little")
    _need(2 <= text_size <= min(size - 8, _MAX_HEADER), f"a header of {text_size} bytes in a file of {size}")
    end = 8 + text_size
    start = start[:end] + os.pread(file, max(0, end - len(start)), len(start))
    header = parse_json(start[8:], dict)
    metadata = header.pop("__metadata__", None)
    _need(isinstance(metadata, dict) and sorted(metadata) == sorted(_METADATA), "unknown metadata")
    crc = int(metadata.pop("crc32"))
    _need(0 <= crc < 2**32, f"a checksum of {crc}")
    arrays = _arrays(header, size - end)
    info, terminated, truncated = (parse_json(metadata[name]) for name in ("info", "terminated", "truncated"))
    _need(
        isinstance(info, dict) and all(isinstance(v, str | int | float) for v in info.values()),
        "info that is not plain",
    )
    _need(isinstance(terminated, bool) and isinstance(truncated, bool), "unknown metadata")
    num_rows, start_crc = arrays["reward"][1][0], checksum(header, metadata, ())
    return _Header(num_rows, end, zlib.crc32(start), start_crc, crc, arrays, info, terminated, truncated)


def _arrays(header: dict[str, Any], size: int) -> dict[str, tuple[np.dtype, list[int], int, int]]:
    """What a header says of its arrays, in ``size`` bytes of data: type, shape, begin and end of each."""
    arrays: dict[str, tuple[np.dtype, list[int], int, int]] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape = entry["dtype"], entry["shape"]
        start, stop = entry["data_offsets"]
        extra = name.startswith("extras.") and EXTRA_NAME.fullmatch(name[len("extras.") :])
        wanted = {**_FIXED, **_OPTIONAL}.get(name)
        _need(bool(extra) or wanted is not None, f"an array named {name!r}")
        _need(kind in EXTRA_TYPES and (bool(extra) or (kind, len(shape)) == wanted), f"{name}: {kind} {shape}")
        _need(all(type(n) is int and n >= 0 for n in (*shape, start, stop)), f"{name}: shape {shape}")
        dtype = EXTRA_TYPES[kind]
        _need(
            start == end and stop - start == math.prod(shape) * dtype.itemsize and stop <= size,
            f"{name}: {shape} at bytes {start} to {stop} of {size}",
        )
        arrays[name], end = (dtype, shape, start, stop), stop
    _need(end == size, f"{size} bytes of data, {end} expected")
    _need(all(name in arrays for name in _FIXED), f"arrays {sorted(arrays)}")
    shapes = {name: shape for name, (_, shape, _, _) in arrays.items()}
    count, channels = shapes["reward"][0], shapes["image"][1]  # three channels a camera
    _need(channels > 0 and channels % 3 == 0, f"image: shape {shapes['image']}")
    of_rows = (*(name for name in _FIXED if name != "success"), *_OPTIONAL)
    lengths = ((shape[0] if shape else 0) + (name not in of_rows) for name, shape in shapes.items())
    _need(count >= 2 and all(length == count for length in lengths), "arrays of different lengths")
    return arrays
