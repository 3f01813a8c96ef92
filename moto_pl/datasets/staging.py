"""Directories that are there whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moto_pl.files import is_held, make_directory, sync

_HIDDEN = r"\.{name}\.[0-9a-f]{{8}}(\.old)?"


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A new hidden directory beside ``path``, which takes its place at the end; an error leaves ``path`` as it was.

    What killed writers of the same ``path`` left is removed first; one that is at work keeps its own, by a lock.
    """
    make_directory(path.parent)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    unlocked = temporary.with_name(f"{temporary.name}.new")
    unlocked.mkdir()
    lock = os.open(unlocked, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(temporary)
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            replaced = temporary.with_name(f"{temporary.name}.old")
            path.rename(replaced)
            temporary.rename(path)
            # A power cut may undo renames that are not flushed: until then what is replaced may be needed.
            sync(path.parent)
            shutil.rmtree(replaced)
        else:
            temporary.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(unlocked, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _sweep(path: Path) -> None:
    """Removes what killed writers left. One that was killed between its renames left ``path`` itself, as ``.old``."""
    pattern = re.compile(_HIDDEN.format(name=re.escape(path.name)))
    for left in sorted(path.parent.glob(f".{path.name}.*")):
        if not pattern.fullmatch(left.name) or not left.is_dir() or left.is_symlink():
            continue
        if is_held(left.with_name(left.name.removesuffix(".old"))):
            continue  # its writer is at work
        if left.suffix == ".old" and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _sync_tree(directory: Path) -> None:
    for part in directory.rglob("*"):
        sync(part)
    sync(directory)
