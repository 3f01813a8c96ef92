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
        with open(temporary, "wb") as file:
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


def on_a_new_line(file: IO[bytes]) -> None:
    """Ends the line that a killed writer left open, so that it does not swallow what is added to the file next.

    Args:
        file: open to be read and added to (``"ab+"``).
    """
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.write(b"\n")
