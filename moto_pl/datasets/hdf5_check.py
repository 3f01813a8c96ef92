"""Looks through an HDF5 file of unknown origin in a process of its own, before this process trusts it.

The HDF5 library crashes on some damaged files and never returns from others. Neither can be caught where it happens.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import h5py

TIME_LIMIT_S = 30.0
"""For a file's structure and attributes; ten seconds more for each gigabyte."""
_REFUSED = 3


def check_hdf5(path: Path) -> None:
    """Raises a ValueError where the file is damaged, refers to other files, or claims more than it can hold.

    Raises:
        ValueError: says what is wrong.
        OSError: there is no such file.
        MachineError: no process could look through it, which is no fault of the file's.
    """
    status = path.stat()
    _check(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=256)
def _check(path: Path, modified: int, size: int, inode: int) -> None:
    limit = TIME_LIMIT_S + 10 * size / 2**30
    try:
        # By its path rather than as a module of the package, whose other imports take seconds.
        command = [sys.executable, "-P", __file__, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except OSError as error:  # no fault of the file's
        raise no_process(path, str(error.strerror)) from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not get through it in {limit:.0f} s") from error
    if done.returncode == _REFUSED:
        raise ValueError(done.stderr.strip())
    if done.returncode < 0:
        raise ValueError(f"the HDF5 library crashed on it ({signal.Signals(-done.returncode).name})")
    if done.returncode != 0:
        raise no_process(path, " ".join(done.stderr.split())[-300:])


def no_process(path: Path, reason: str) -> Exception:
    """The error where the process that was to look through a file could not start, or came to nothing."""
    from moto_pl.errors import MachineError  # not by the child, which is not of the package

    fix = f"Make {sys.executable} runnable, with room for one more process."
    return MachineError("data.dataset", f"{path}, which no process could look through ({reason})", fix)


def look_through(group: h5py.Group) -> None:
    """Touches each object and attribute.

    HDF5 fills what was never written: a file of a few bytes may claim to hold terabytes. Compression makes of a byte
    1032 at most.
    """
    for name in group.attrs:
        group.attrs[name]
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{group.name}/{name} is a link, perhaps to another file")
        item = group[name]
        if isinstance(item, h5py.Group):
            look_through(item)
            continue
        for attribute in item.attrs:
            item.attrs[attribute]
        stored = item.id.get_storage_size()
        if item.external is not None or item.is_virtual:
            raise ValueError(f"{item.name} lies in another file")
        if item.nbytes > 1032 * stored + 2**16:
            raise ValueError(f"{item.name} claims {item.nbytes} bytes and holds {stored}")
        if item.dtype.hasobject:
            item[()]  # text lies in a heap of its own
        elif item.chunks is not None:
            item.id.get_num_chunks()


def main() -> int:
    """The child's part: 0 for a sound file."""
    try:
        with h5py.File(sys.argv[1], "r") as file:
            look_through(file)
    except Exception as error:  # whatever it is, the file is the reason
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
