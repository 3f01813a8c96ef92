"""What a look at each of an episodes' directory's files has found, kept, so that 100,000 need not be opened again.

It is a memory and no authority. The files are what there is: an entry counts while the directory still says of its file
what it said then (size, inode, times of change), and an index that is missing, damaged or of another directory's files
costs the time of looking.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from moto_pl.files import remove_leftover, temporary_path, write_whole
from moto_pl.reading import read_bytes
from moto_pl.replay.episode_file import FileFacts

NAME = ".index"
_MAGIC = b"moto_pl episodes 1\n"
_SIGNED = ("modified_ns", "changed_ns")
_ENTRY = np.dtype([(name, "<i8" if name in _SIGNED else "<u8") for name in FileFacts._fields])
#: Files that may be looked at again rather than the index written anew: so many, or this share of all.
_LEAST, _SHARE = 1000, 0.25


class Index:
    """The facts of a directory's files, by number, written down now and then.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / NAME
        remove_leftover(temporary_path(self._path))
        self._facts = _read(self._path)
        self._new = 0

    def known(self, number: int) -> FileFacts | None:
        """What was found in a file, whether or not it is still so."""
        return self._facts[number] if number < len(self._facts) else None

    def listed(self, number: int, status: os.stat_result) -> FileFacts | None:
        """What was found in a file, if the directory says that it is the same; None where it has to be looked at."""
        facts = self.known(number)
        return facts if facts is not None and facts.are_of(status) else None

    def note(self, number: int, facts: FileFacts) -> None:
        """Remembers what was found in a file: one that is known, or the next."""
        if self.known(number) == facts:
            return
        self._facts[number : number + 1] = [facts]
        self._new += 1

    def keep(self) -> None:
        """Writes the index, where enough of it is new. Where it cannot be written, files are looked at."""
        if self._new <= max(_LEAST, _SHARE * len(self._facts)):
            return
        self._new = 0
        content = np.array(self._facts, _ENTRY).tobytes()
        with suppress(OSError):
            write_whole(self._path, _MAGIC + zlib.crc32(content).to_bytes(4, "little") + content)


def _read(path: Path) -> list[FileFacts]:
    try:
        whole = read_bytes(path)
    except (OSError, ValueError):
        return []
    begin = len(_MAGIC) + 4
    content = memoryview(whole)[begin:]
    if whole[:begin] != _MAGIC + zlib.crc32(content).to_bytes(4, "little") or len(content) % _ENTRY.itemsize:
        return []
    return [FileFacts._make(entry) for entry in np.frombuffer(content, _ENTRY).tolist()]
