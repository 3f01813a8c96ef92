"""Files that are whole or not there, and directories that one process holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from filelock import FileLock, Timeout
from rich.filesize import pick_unit_and_suffix

from moto_pl.errors import SettingError

LOCK = ".lock"
"""The file of a run's directory that its process holds."""
ERRORS = "errors.log"
"""The file of a run's directory that says what has ended its processes."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has the system's errors name ``path``: a full disk does not say whose write it refuses."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole(path: Path, previous: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write, which stands at ``path`` once it is whole.

    It is written under another name (a hidden one that ends in ``.tmp``), flushed to the disk and renamed; then the
    directory is flushed. At any moment ``path`` is what it was or what it becomes. A lock, which the system drops with
    the process, tells what is being written from what a killed writer left, and two writers of one path take turns.

    Args:
        path: where it will stand; the directory is there.
        previous: a name for what stands there now; None replaces it.

    Yields:
        The open file; ``file.name`` is no path, :func:`temporary_path` is.

    Raises:
        OSError: where it cannot be written. After this and any other error ``path`` is what it was.
    """
    temporary = temporary_path(path)
    with naming(path), os.fdopen(_open_held(temporary), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by :func:`whole`."""
    with whole(path) as file:
        file.write(content)


def temporary_path(path: Path) -> Path:
    """The name under which :func:`whole` writes ``path``, for writers that take a path and not a file."""
    return path.with_name(f".{path.name}.tmp")


def sync(path: Path) -> None:
    """Flushes a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a file or a directory by a lock (``flock``); one that cannot be asked counts as held."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # Shared, so that two who ask at once are not taken for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def remove_leftover(temporary: Path) -> None:
    """Removes what a killed writer of :func:`whole` left; a living writer's stays."""
    try:
        with open(temporary, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()  # under the lock: a new writer of that name waits for it, and then makes a new file
    except OSError:
        return  # its writer is at work, another process removed it, or it is not ours to remove


def _open_held(path: Path) -> int:
    """An empty file that this process alone writes: its descriptor."""
    while True:
        if path.is_symlink():
            path.unlink(missing_ok=True)  # a link that waits there would have its target overwritten
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: nobody can take it for a leftover there
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # While this one waited, another writer may have renamed the file, or somebody have removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    os.ftruncate(descriptor, 0)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes a directory, and those above it where they are missing, so that they last.

    A file's content and its name are two things: a new name lasts when its directory is flushed.

    Raises:
        OSError: where that is impossible.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in reversed(missing):
        sync(directory.parent)


def check_can_write(setting: str, path: Path, *, file: bool = False) -> None:
    """Refuses a place where nothing can be written, before what would be written there is made.

    It is tried out, with a file that is gone again: permissions alone do not tell. Of a directory that is missing, the
    nearest one above it is tried; nothing is made.

    Args:
        setting: that names it.
        path: a directory in which something is to be written.
        file: ``path`` is itself what is to be written, as a file or a directory.

    Raises:
        SettingError: where that fails.
    """
    path_or_above = [path, *path.absolute().parents][file:]
    try:
        with TemporaryFile(dir=next(place for place in path_or_above if place.exists())):
            pass
    except OSError as error:
        found = f"{path}, where nothing can be written ({error.strerror})"
        raise SettingError(setting, found, "Give a place that can be written.") from None


@contextmanager
def lock_run(
    directory: Path, setting: str = "trainer.default_root_dir", there: str = "another process is training"
) -> Iterator[None]:
    """Holds a directory for this process, which is made where it is missing. The lock goes with the process.

    Args:
        directory: of a run, or of others' runs.
        setting: that names it.
        there: what is going on in it where it is held.

    Raises:
        SettingError: where another process has it, or its file system knows no locks.
    """
    try:
        make_directory(directory)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        found = f"{directory} ({error.strerror})"
        raise SettingError(setting, found, "Give a directory, or a name for one that can be made.") from None
    path = directory / LOCK
    if path.is_symlink():
        raise SettingError(setting, f"{path}, a link that leads elsewhere", "Remove the link.")
    lock = FileLock(path)
    try:
        # Not at once: who asks whether the lock is held (`is_held`) has it for a moment.
        lock.acquire(timeout=0.5, poll_interval=0.02)
    except Timeout:
        raise SettingError(setting, f"{directory}, in which {there}", "Wait for it, or use another.") from None
    except (OSError, NotImplementedError) as error:
        found = f"{directory}, which cannot be locked ({error})"
        raise SettingError(setting, found, "Use a directory on a disk that locks files, such as a local one.") from None
    try:
        yield
    finally:
        lock.release()


def bytes_text(count: float) -> str:
    """A size for people, in powers of 1024: ``0 B``, ``1.5 KiB``, ``2.0 GiB``."""
    unit, suffix = pick_unit_and_suffix(int(count), ["B", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{count:.0f} B" if unit == 1 else f"{count / unit:.1f} {suffix}"


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


def file_status(path: Path) -> os.stat_result | None:
    """A file's status; None where there is no file, or no longer: a run renames and removes some of its own."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None
