"""Looks for what is whole in a damaged HDF5 file of episodes, and copies it, in a process of its own.

The HDF5 library may crash on such a file or never return from it; what it got through before is said by then. This
file is run by its path and imports nothing of the package, whose imports take seconds.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import h5py

_BEYOND = 0xA5  # what lies beyond the end of a truncated file; not zeros, whose checksum would be right
_ROOM = 2**40


class Padded(io.RawIOBase):
    """A file to read that goes on beyond its end, so that the library opens one that is truncated.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self._place = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the place of the next read."""
        base = {0: 0, 1: self._place, 2: self.size + _ROOM}[whence]
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Reads bytes into a buffer, and fills it up."""
        view = memoryview(buffer).cast("B")
        found = os.pread(self._file.fileno(), len(view), self._place) if self._place < self.size else b""
        view[: len(found)] = found
        view[len(found) :] = bytes([_BEYOND]) * (len(view) - len(found))
        self._place += len(view)
        return len(view)


def number(name: str) -> int:
    """The number of an episode's group, -1 for another one."""
    match = re.fullmatch(r"episode_(\d{1,9})", name)
    return int(match[1]) if match else -1


def names(file: h5py.File, claimed: int) -> Iterator[str]:
    """The episodes that the file lists; where its list is damaged, those that it is said to hold."""
    try:
        listed = [name for name in file if number(name) >= 0]
    except Exception:
        listed = []
    yield from sorted({*listed, *(f"episode_{i}" for i in range(claimed))}, key=number)


def arrays(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """A group's arrays by their path in it."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{prefix}{name} is a link, perhaps to another file")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from arrays(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def check_array(name: str, array: h5py.Dataset, size: int) -> None:
    """Raises a ValueError where not every byte is in the file, an OSError where a checksum is wrong."""
    stored = array.id.get_storage_size()
    if array.external is not None or array.is_virtual:
        raise ValueError(f"{name} lies in another file")
    if array.nbytes > 1032 * stored + 2**16:
        raise ValueError(f"{name} claims {array.nbytes} bytes and holds {stored}")
    if array.chunks is not None:
        wanted = 1
        for length, chunk in zip(array.shape, array.chunks, strict=True):
            wanted *= -(-length // chunk)
        infos = [array.id.get_chunk_info(i) for i in range(array.id.get_num_chunks())]
        if len(infos) != wanted:
            raise ValueError(f"{name} has {len(infos)} of its {wanted} chunks")  # the library reads zeros there
        ends = [info.byte_offset + info.size for info in infos]
    else:
        place = array.id.get_offset()
        ends = [] if place is None else [place + stored]
        if place is None and array.nbytes and array.id.get_create_plist().get_layout() != h5py.h5d.COMPACT:
            raise ValueError(f"{name} was never written")
    if max(ends, default=0) > size:
        raise ValueError(f"{name} lies beyond the file's end")
    array[()]


def check_episode(group: Any, size: int) -> dict[str, Any]:
    """Reads every byte of an episode; its steps, and what its arrays are.

    Raises:
        Exception: of many kinds, where it is not whole.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError("no group")
    for name in group.attrs:
        group.attrs[name]
    found = {}
    for name, array in arrays(group):
        check_array(name, array, size)
        for attribute in array.attrs:
            array.attrs[attribute]
        found[name] = [str(array.dtype), list(array.shape)]
    needed = ("actions", "rewards", "terminations", "truncations")
    if missing := {*needed} - {name.split("/")[0] for name in found}:
        raise ValueError(f"without {', '.join(sorted(missing))}")
    steps = int(group["rewards"].shape[0])
    if not any(name.split("/")[0] == "observations" for name in found):
        raise ValueError("without observations")
    for name, (_, shape) in found.items():
        kind = name.split("/")[0]
        lengths = {"observations": (steps + 1,), "infos": None}.get(kind, (steps,))
        if lengths is not None and (not shape or shape[0] not in lengths):
            raise ValueError(f"{name} of shape {tuple(shape)} for {steps} steps")
    if steps < 1 or int(group.attrs.get("total_steps", steps)) != steps:
        raise ValueError(f"{steps} rewards, and {group.attrs.get('total_steps')} steps said")
    return {"steps": steps, "arrays": found}


def say(**message: Any) -> None:
    """A line for the parent."""
    print(json.dumps(message), flush=True)


def look(source: str, claimed: int, known: list[str]) -> None:
    """Says of each episode but the ``known`` ones whether it is whole."""
    padded = Padded(source)
    with h5py.File(padded, "r") as file:
        for name in names(file, claimed):
            if name in known:
                continue
            say(begun=name)
            try:
                if name not in file:
                    raise ValueError("not in the file")
                say(whole=name, **check_episode(file[name], padded.size))
            except Exception as error:  # whatever it is, the file is the reason
                say(damaged=name, why=" ".join(str(error).split()) or type(error).__name__)
    say(done=True)


def copy(source: str, target: str, wanted: list[str]) -> None:
    """Copies episodes as they lie there, without unpacking them, under numbers from 0 on."""
    with h5py.File(Padded(source), "r") as file, h5py.File(target, "w", track_order=True) as new:
        for count, name in enumerate(wanted):
            file.copy(file[name], new, name=f"episode_{count}")
            new[f"episode_{count}"].attrs["id"] = count
    say(done=True)


def main() -> int:
    """The child's part; its arguments are JSON."""
    action, *arguments = json.loads(sys.argv[1])
    try:
        if action == "look":
            look(*arguments)
        else:
            copy(*arguments)
    except Exception as error:
        say(failed=" ".join(str(error).split()) or type(error).__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
