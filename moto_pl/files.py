"""Files that are whole or not there, and directories that one process holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from moto_pl.errors import SettingError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under another name first, flushes it, renames it, and flushes its new name.

    Raises:
        OSError: where it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Waits until what was done to a file, or to the names in a directory, is on the disk.

    A file's content and its name are two things: a new name lasts when its directory is flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory, and those above it where they are missing, so that they last.

    Raises:
        OSError: where that is impossible.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in reversed(missing):
        sync(directory.parent)


def lock_run(
    directory: Path, setting: str = "trainer.default_root_dir", there: str = "another process is training"
) -> IO[str]:
    """Holds a directory for this process; returns the open file that holds it.

    Args:
        directory: of a run, or of others' runs.
        setting: that names it.
        there: what is going on in it where it is held.

    Raises:
        SettingError: where another process has it.
    """
    make_directory(directory)
    file = open(directory / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingError(
            setting,
            f"{directory}, in which {there}",
            "Wait for it, or use another.",
        ) from None
    return file
