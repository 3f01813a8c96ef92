"""Episodes on disk: append-only, crash-safe, read through memory maps.

An episode is one file in the safetensors layout: the header's length (8 bytes, little-endian), a JSON header that
names each array's type, shape and place, then the arrays. Frames lie there once, channel-first, and actions and rewards
in the learner's rows, so that a sequence is one contiguous read. No file is ever changed: it appears whole, under its
name, or not at all. Written and read by hand, on purpose: a file is held against its checksum and against its own size
before anything is made of it, and thousands stay mapped without being open.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch

from moto_pl.errors import SettingError
from moto_pl.files import bytes_text, make_directory, remove_leftover, whole
from moto_pl.reading import open_regular, parse_json
from moto_pl.replay.episode import EXTRA_NAME, EXTRA_TYPES, Episode, EpisodeFigures, InfoValue, rows

MARKER = "dataset.json"
"""In a run's replay: which dataset its first episodes are from. ``episodes`` is there once all are taken in."""
HELD_OUT = "held_out"
"""In a run's replay: the dataset's episodes that are not trained on."""
_MAPPED = 16_384
"""Files that a store keeps mapped: Linux gives a process 65,530 maps unless told otherwise, malloc's among them."""
_ALIGNMENT = 64
_MAX_HEADER = 2**20
_FIXED = {"image": ("U8", 4), "action": ("F32", 2), "reward": ("F32", 1), "success": ("BOOL", 1)}
_OPTIONAL = {"vector": ("F32", 2)}  # the state vectors, where they are learned from
_METADATA = ("crc32", "info", "terminated", "truncated")
_DAMAGED = "Take it from a copy of the replay directory, or delete that directory and start anew."


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


class Known(NamedTuple):
    """What a store keeps of each episode, also while its file is not mapped; as in :class:`EpisodeView`."""

    path: Path
    length: int
    num_rows: int
    nbytes: int
    crc: int

    @classmethod
    def of(cls, view: EpisodeView) -> Known:
        """That of an open episode."""
        return cls(view.path, view.length, view.num_rows, view.nbytes, view.crc)


class EpisodeStore:
    """An append-only directory of episodes, ``000000.safetensors`` on.

    Opening it reads the headers of all whole episodes and removes what a killed writer left; a missing number ends the
    list. Several processes may hold the same directory open: each knows the episodes that it appended itself or took in
    with :meth:`refresh`.

    Args:
        root: the directory; made if missing.
        max_bytes: largest size of all episodes together; None sets no limit.

    Raises:
        SettingError: a file is damaged (it is named), or the directory cannot be written.
    """

    def __init__(self, root: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.root, self.max_bytes = Path(root), max_bytes
        if max_bytes is not None and max_bytes < 1:
            raise SettingError("max_bytes", max_bytes, "Give a size in bytes, or None.")
        try:
            make_directory(self.root)
        except OSError as error:
            raise SettingError(str(self.root), error.strerror, "Name a directory that can be written.") from error
        #: Changes whenever the list of episodes does.
        self.generation = 0
        self._remove_leftovers()
        self._known: list[Known] = []
        #: Those whose files are mapped, the first that was mapped first.
        self._views: dict[int, EpisodeView] = {}
        self._lock = Lock()  # the loader's thread reads while this one appends
        while self._path(len(self._known)).exists():
            self._take_in(_open(self._path(len(self._known))))

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, index: int) -> EpisodeView:
        known = self._known[index]
        index = range(len(self._known))[index]
        view = self._views.get(index)
        if view is None:
            view = _open(known.path)
            if view.crc != known.crc:
                raise SettingError(str(known.path), "another episode than before", "Put that file back, or start anew.")
            self._keep(index, view)
        return view

    def _keep(self, index: int, view: EpisodeView) -> None:
        with self._lock:
            self._views[index] = view
            _drop_oldest(self._views)

    def _take_in(self, view: EpisodeView) -> None:
        """Adds an episode at the end."""
        self._keep(len(self._known), view)
        self._known.append(Known.of(view))

    @property
    def known(self) -> Sequence[Known]:
        """What is kept of each episode: to look at all of them this opens no file."""
        return self._known

    @property
    def num_rows(self) -> int:
        """Rows of all episodes."""
        return sum(episode.num_rows for episode in self._known)

    @property
    def nbytes(self) -> int:
        """Bytes of all episodes."""
        return sum(episode.nbytes for episode in self._known)

    def append(self, episode: Episode, index: int | None = None) -> int:
        """Writes an episode, whole or not at all.

        Args:
            episode: what to write.
            index: its number, at least ``len(self)``; None is ``len(self)``. A file of that number that the store does
                not know (a killed run's) is replaced. A number beyond the next one, as each of several processes uses
                for its own, is written but not known before :meth:`refresh`.

        Returns:
            The episode's number.

        Raises:
            SettingError: the number is taken, the store would exceed ``max_bytes``, or the disk is full; the store is
                then what it was.
        """
        index = len(self) if index is None else index
        if index < len(self):
            raise SettingError("index", index, f"Stored episodes do not change: use {len(self)} or a later number.")
        header, arrays = _encode(episode)
        size = len(header) + sum(map(len, arrays))
        if self.max_bytes is not None and self.nbytes + size > self.max_bytes:
            needed = f"{bytes_text(self.nbytes + size)} needed for episode {index}"
            raise SettingError(
                "data.replay_limit_gb",
                f"{bytes_text(self.max_bytes)} for {self.root}, and {needed}",
                "Raise or remove the limit, or train for fewer episodes.",
            )
        path = self._path(index)
        self._write(path, [header, *arrays])
        view = _open(path)
        if index == len(self):
            self._take_in(view)
            self.generation += 1
        return index

    def refresh(self, count: int) -> None:
        """Takes in the episodes up to number ``count`` - 1, which other processes have written.

        Raises:
            SettingError: one of them is missing or damaged.
        """
        found = [_open(self._path(index)) for index in range(len(self), count)]
        for view in found:
            self._take_in(view)
        self.generation += bool(found)

    def manifest(self) -> list[dict[str, int | str]]:
        """The known episodes, in plain types: ``file``, ``length`` (steps) and ``crc32`` of each."""
        return [{"file": e.path.name, "length": e.length, "crc32": e.crc} for e in self._known]

    def restore(self, manifest: Sequence[dict[str, int | str]]) -> None:
        """Goes back to the episodes of a manifest; all others are forgotten, and replaced by later appends.

        Every byte is read and held against its checksum: what a disk has lost is found before it is learned from.

        Raises:
            SettingError: an episode of the manifest is missing, damaged or another one; the store is then what it was.
        """
        known: list[Known] = []
        views: dict[int, EpisodeView] = {}
        for index, entry in enumerate(manifest):
            path = self._path(index)
            view = _open(path, check=True)
            found = {"file": path.name, "length": view.length, "crc32": view.crc}
            if found != dict(entry):
                raise SettingError(
                    str(path), found, f"The checkpoint was made with {dict(entry)}: put that file back, or start anew."
                )
            known.append(Known.of(view))
            views[index] = view
            _drop_oldest(views)
        self._known, self._views = known, views
        self.generation += 1

    def verify(self) -> None:
        """Reads every byte of every known episode.

        Raises:
            SettingError: names the first file that does not hold what was written.
        """
        for episode in self._known:
            _open(episode.path, check=True)

    def describe_capacity(self, expected_episodes: int, rows: int) -> str:
        """One line: how much the store will hold, and where.

        Args:
            expected_episodes: episodes in all, those stored among them.
            rows: rows of an episode (steps + 1).
        """
        row_bytes = self.nbytes / self.num_rows if self._known else 64 * 64 * 3
        total = max(self.nbytes, round(expected_episodes * rows * row_bytes))
        free = shutil.disk_usage(self.root).free
        line = (
            f"replay: {self.root} holds {len(self)} episodes ({bytes_text(self.nbytes)}); {expected_episodes} "
            f"expected, {bytes_text(total)}; free disk {bytes_text(free)}"
        )
        if self.max_bytes is not None:
            line += f", limit {bytes_text(self.max_bytes)}"
            if total > self.max_bytes:
                line += ". THE LIMIT IS TOO SMALL for that: raise data.replay_limit_gb"
        if total - self.nbytes > free:
            line += ". THE DISK IS TOO SMALL for that: free some space or use another directory"
        return line

    def _path(self, index: int) -> Path:
        return self.root / f"{index:06d}.safetensors"

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        try:
            with whole(path) as file:
                file.writelines(parts)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SettingError(
                str(path),
                f"a full disk ({bytes_text(shutil.disk_usage(self.root).free)} free)",
                "Free some space, or run in another directory (trainer.default_root_dir); the replay is unharmed.",
            ) from error

    def _remove_leftovers(self) -> None:
        for path in self.root.glob(".*.safetensors.tmp"):
            remove_leftover(path)


def _drop_oldest(views: dict[int, EpisodeView]) -> None:
    while len(views) > _MAPPED:
        del views[next(iter(views))]


def check_episode(path: Path) -> None:
    """Reads every byte of an episode's file.

    Raises:
        SettingError: names the file, and what is wrong with it.
    """
    _open(path, check=True)


def _encode(episode: Episode) -> tuple[bytes, list[memoryview]]:
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
    metadata["crc32"] = str(_crc(header, metadata, arrays))
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    if len(text) > _MAX_HEADER - _ALIGNMENT:
        raise SettingError("episode.info", f"{len(text)} bytes", f"Give less than {_MAX_HEADER} bytes of text.")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, arrays


def _crc(header: dict[str, Any], metadata: dict[str, str], parts: Sequence[memoryview]) -> int:
    """CRC-32 of all that an episode's file says, header and data."""
    crc = zlib.crc32(json.dumps([header, metadata], sort_keys=True).encode())
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


def _open(path: Path, check: bool = False) -> EpisodeView:
    """Maps an episode's file, whatever is in it.

    Raises:
        SettingError: names the file, and what is wrong with it.
    """
    try:
        return _map(path, check)
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


def _mapped(file: int, size: int) -> np.ndarray:
    """The bytes of an open file, read-only. Unlike Python's own, this mapping keeps no file open: a store has many."""
    array: np.ndarray = torch.from_file(f"/proc/self/fd/{file}", shared=False, size=size, dtype=torch.uint8).numpy()
    array.flags.writeable = False
    return array


def _map(path: Path, check: bool) -> EpisodeView:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        _need(len(prefix) == 8, f"{size} bytes")
        # Sizes that a file claims are held against its real size before anything of that size is allocated.
        header_size = int.from_bytes(prefix, "little")
        _need(2 <= header_size <= min(size - 8, _MAX_HEADER), f"a header of {header_size} bytes in a file of {size}")
        header = parse_json(file.read(header_size), dict)
        data = _mapped(file.fileno(), size)[8 + header_size :]
    _need(isinstance(header, dict), "a header that is no object")
    metadata = header.pop("__metadata__", None)
    _need(isinstance(metadata, dict) and sorted(metadata) == sorted(_METADATA), "unknown metadata")
    crc = int(metadata.pop("crc32"))
    arrays: dict[str, np.ndarray] = {}
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
            start == end and stop - start == math.prod(shape) * dtype.itemsize and stop <= len(data),
            f"{name}: {shape} at bytes {start} to {stop} of {len(data)}",
        )
        arrays[name], end = data[start:stop].view(dtype).reshape(shape), stop
    _need(end == len(data), f"{len(data)} bytes of data, {end} expected")
    _need(all(name in arrays for name in _FIXED), f"arrays {sorted(arrays)}")
    count = len(arrays["reward"])
    extras = {name[len("extras.") :]: array for name, array in arrays.items() if name.startswith("extras.")}
    _need(count >= 2 and len(arrays["image"]) == len(arrays["action"]) == count, "arrays of different lengths")
    _need("vector" not in arrays or len(arrays["vector"]) == count, "arrays of different lengths")
    channels = arrays["image"].shape[1]  # three a camera
    _need(channels > 0 and channels % 3 == 0, f"image: shape {arrays['image'].shape}")
    steps = (len(array) if array.ndim else 0 for array in (arrays["success"], *extras.values()))
    _need(all(n == count - 1 for n in steps), "arrays of different lengths")
    info, terminated, truncated = (parse_json(metadata[name]) for name in ("info", "terminated", "truncated"))
    _need(
        isinstance(info, dict) and all(isinstance(v, str | int | float) for v in info.values()),
        "info that is not plain",
    )
    _need(isinstance(info, dict) and isinstance(terminated, bool) and isinstance(truncated, bool), "unknown metadata")
    if check:
        _need(_crc(header, metadata, [data.data]) == crc, "its checksum does not match its content")
    return EpisodeView(
        path=path,
        image_rows=arrays["image"],
        action_rows=arrays["action"],
        reward_rows=arrays["reward"],
        success=arrays["success"],
        extras=extras,
        terminated=terminated,
        truncated=truncated,
        info=info,
        crc=crc,
        nbytes=size,
        vector=arrays.get("vector"),
    )
