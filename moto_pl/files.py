"""Files that are whole or not there, and directories that one process holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from moto_pl.errors import SettingError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under another name first, flushes it, and renames it.

    Raises:
        OSError: where it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link that waits there would have its target overwritten
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


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
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    if path.is_symlink():
        raise SettingError(setting, f"{path}, a link that leads elsewhere", "Remove the link.")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingError(
            setting,
            f"{directory}, in which {there}",
            "Wait for it, or use another.",
        ) from None
    return file


def open_to_add(path: Path) -> IO[bytes]:
    """Opens a file to add to it, on a new line: one that a killed writer left open swallows nothing that comes next.

    Raises:
        OSError: it cannot be written, or is a link.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab+")
    if file.seek(0, os.SEEK_END) > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
