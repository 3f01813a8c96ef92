"""Directories that are there whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moto_pl.errors import SettingError
from moto_pl.files import is_held, lock_run, make_directory, sync


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


def begin_parts(parts: Path, settings: Mapping[str, Any], done: str) -> None:
    """Makes a directory of finished parts, or goes on in one that was begun with the same settings.

    Args:
        parts: the directory.
        settings: JSON-able.
        done: what was half done where it was begun with others, such as ``rendered``.

    Raises:
        SettingError: it was begun with others.
    """
    file = parts / "settings.json"
    text = json.dumps(settings, indent=2)
    if parts.exists():
        found = file.read_text() if file.is_file() else "none"
        if found != text:
            raise SettingError(
                "output",
                f"{parts}, half {done} from another source or with other settings",
                "Run that command again to finish it, or remove the directory.",
            )
        return
    with staged(parts) as directory:
        (directory / "settings.json").write_text(text)


@contextmanager
def held_parts(parts: Path, settings: Mapping[str, Any], work: str, done: str) -> Iterator[None]:
    """A directory of finished parts (:func:`begin_parts`) for one process alone, without what a killed one left.

    Args:
        parts: the directory.
        settings: JSON-able.
        work: what is done to the parts, in a word for people, such as ``render``.
        done: what they are then: ``rendered``.

    Raises:
        SettingError: it was begun with other settings, or another process is at it.
    """
    begin_parts(parts, settings, done)
    with lock_run(parts, "output", f"another {work} is at work"):
        for left_over in parts.glob(".episode_*"):
            left_over.unlink()
        yield


def _sweep(path: Path) -> None:
    """Removes what killed writers left. One that was killed between its renames left ``path`` itself, as ``.old``."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\.old)?")
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
