"""Episodes on disk: append-only, crash-safe, read through memory maps.

No file is ever changed: it appears whole, under its name, or not at all. What is in one: ``episode_file``.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from moto_pl.errors import SettingError
from moto_pl.files import bytes_text, make_directory, remove_leftover, whole
from moto_pl.replay.episode import Episode
from moto_pl.replay.episode_file import EpisodeView, FileFacts, check_episode, encode, look_at, map_episode
from moto_pl.replay.index import Index

MARKER = "dataset.json"
"""In a run's replay: which dataset its first episodes are from. ``episodes`` is there once all are taken in."""
HELD_OUT = "held_out"
"""In a run's replay: the dataset's episodes that are not trained on."""
_MAPPED = 16_384
"""Files that a store keeps mapped: Linux gives a process 65,530 maps unless told otherwise, malloc's among them."""
_MEMORY: int = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
"""Bytes of memory that the machine has."""


class Known(NamedTuple):
    """What a store keeps of each episode, also while its file is not mapped; as in :class:`EpisodeView`."""

    path: Path
    length: int
    num_rows: int
    nbytes: int
    crc: int


class EpisodeStore:
    """An append-only directory of episodes, ``000000.safetensors`` on.

    Opening it takes in all whole episodes, whose headers it reads where its :class:`~moto_pl.replay.index.Index` does
    not know the files, and removes what a killed writer left; a missing number ends the list. A file is mapped when its
    episode is first asked for. Several processes may hold the same directory open: each knows the episodes that it
    appended itself or took in with :meth:`refresh`.

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
        self._nbytes = 0
        #: Those whose files are mapped, the first that was mapped first.
        self._views: dict[int, EpisodeView] = {}
        self._lock = Lock()  # the loader's thread reads while this one appends
        self._index = Index(self.root)
        for number in itertools.count():
            path = self._path(number)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                break
            self._take_in(self._index.listed(number, status) or look_at(path))
        self._index.keep()

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, index: int) -> EpisodeView:
        known = self._known[index]
        index = range(len(self._known))[index]
        view = self._views.get(index)
        if view is None:
            view = map_episode(known.path)
            if (view.crc, view.num_rows) != (known.crc, known.num_rows):
                raise SettingError(str(known.path), "another episode than before", "Put that file back, or start anew.")
            with self._lock:
                self._views[index] = view
                while len(self._views) > _MAPPED:
                    del self._views[next(iter(self._views))]
        return view

    def _take_in(self, facts: FileFacts) -> None:
        """Adds an episode at the end, whose file was looked at."""
        number = len(self._known)
        self._index.note(number, facts)
        self._known.append(Known(self._path(number), facts.num_rows - 1, facts.num_rows, facts.nbytes, facts.crc))
        self._nbytes += facts.nbytes

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
        return self._nbytes

    @property
    def beyond_memory(self) -> bool:
        """Whether the system's memory may not hold all episodes, so that those drawn have often to be read."""
        return self._nbytes > _MEMORY // 2

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
        header, arrays = encode(episode)
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
        facts = look_at(path)
        if index == len(self):
            self._take_in(facts)
            self._index.keep()
            self.generation += 1
        return index

    def refresh(self, count: int) -> None:
        """Takes in the episodes up to number ``count`` - 1, which other processes have written.

        Raises:
            SettingError: one of them is missing or damaged.
        """
        found = [look_at(self._path(index)) for index in range(len(self), count)]
        for facts in found:
            self._take_in(facts)
        self._index.keep()
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
        checked: list[FileFacts] = []
        for index, entry in enumerate(manifest):
            path = self._path(index)
            facts = check_episode(path, self._index.known(index))
            found = {"file": path.name, "length": facts.num_rows - 1, "crc32": facts.crc}
            if found != dict(entry):
                raise SettingError(
                    str(path), found, f"The checkpoint was made with {dict(entry)}: put that file back, or start anew."
                )
            checked.append(facts)
        self._known, self._views, self._nbytes = [], {}, 0
        for facts in checked:
            self._take_in(facts)
        self._index.keep()
        self.generation += 1

    def verify(self) -> None:
        """Reads every byte of every known episode.

        Raises:
            SettingError: names the first file that does not hold what was written.
        """
        for episode in self._known:
            check_episode(episode.path)

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
