"""What a process asks of a file system: strace's log of it, read as operations (for power.py)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("write", "writev", "pwrite64", "pwritev", "lseek", "truncate", "ftruncate", "fsync", "fdatasync"),
    *("link", "linkat", "symlink", "symlinkat", "sendfile", "copy_file_range", "fallocate", "mmap"),
)
#: Removing a directory below this one, which does not exist, notes in the recording that something is acknowledged.
ACKNOWLEDGED = "/acknowledged"
ROOT = 0  # number of the directory that is recorded
_LINE = re.compile(r"^(\d+) +(.*)$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")


# What is recorded. Files and directories have numbers, names come and go.


@dataclass(frozen=True)
class Named:
    """A name in a directory comes to stand for ``node`` (None: goes); ``old`` is the name that it had before there."""

    directory: int
    name: str
    node: int | None
    old: str | None = None


@dataclass(frozen=True)
class Written:
    """Bytes at a place of a file; ``data`` None cuts it off, or fills it up, to ``at`` bytes."""

    node: int
    at: int
    data: bytes | None


@dataclass(frozen=True)
class Flushed:
    """What was done to a file or directory is on the disk."""

    node: int


@dataclass(frozen=True)
class Acknowledged:
    """See :func:`power.acknowledge`."""

    what: str


Operation = Named | Written | Flushed | Acknowledged


def whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """Calls in the order in which they returned, those that another thread interrupted put together."""
    begun: dict[str, str] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        process, text = match[1], match[2]
        if text.endswith("<unfinished ...>"):
            begun[process] = text.removesuffix("<unfinished ...>")
        elif text.startswith("<... "):
            yield begun.pop(process, "") + text.split(" resumed>", 1)[1]
        else:
            yield text


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Reader:
    """Turns strace's lines into operations."""

    def __init__(self, below: Path) -> None:
        self.below = str(below)
        self.operations: list[Operation] = []
        self.directories = {ROOT}
        self.names: dict[tuple[int, str], int] = {}
        self.sizes: dict[int, int] = {}
        self.places: dict[tuple[int, str], int] = {}  # where the next write goes: by file and descriptor
        self.number = ROOT

    def take(self, line: str) -> None:
        if "(" not in line or " = " not in line:
            return
        call, rest = line.split("(", 1)
        arguments, result = rest.rsplit(" = ", 1)
        paths = [_bytes(match[1]).decode(errors="replace") for match in _STRING.finditer(arguments)]
        if call == "rmdir" and paths[0].startswith(f"{ACKNOWLEDGED}/"):
            self.operations.append(Acknowledged(paths[0].removeprefix(f"{ACKNOWLEDGED}/").partition("/")[2]))
            return
        if result.startswith(("-1", "?")) or call not in CALLS:
            return
        handler = getattr(self, f"_{call}", None)
        if handler is not None:
            handler(arguments, result)
        elif self.below in "".join([*paths, *self._descriptor_paths(arguments)]):
            raise NotImplementedError(line[:300])

    def _descriptor_paths(self, arguments: str) -> list[str]:
        found = re.findall(r"\d+<((?:\\x[0-9a-f]{2})*)>", arguments)
        return [_bytes(path).decode(errors="replace") for path in found]

    # Names.

    def _inside(self, path: str) -> str | None:
        """The path below the recorded directory; None for any other."""
        path = os.path.normpath(path)
        if path == self.below:
            return ""
        return path[len(self.below) + 1 :] if path.startswith(self.below + "/") else None

    def _paths(self, arguments: str) -> list[str]:
        """The absolute paths that a call names, each below the directory whose descriptor stands before it."""
        found = []
        for match in _STRING.finditer(arguments):
            path = _bytes(match[1]).decode(errors="replace")
            before = re.search(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, $", arguments[: match.start()])
            base = _bytes(before[1]).decode() if before else "/nowhere"
            found.append(os.path.join(base, path))
        return found

    def _node(self, inside: str) -> int | None:
        node: int | None = ROOT
        for part in inside.split("/") if inside else ():
            node = self.names.get((node, part)) if node is not None else None
        return node

    def _parent(self, inside: str) -> tuple[int, str]:
        parent = self._node(os.path.dirname(inside))
        assert parent is not None, inside
        return parent, os.path.basename(inside)

    def _new(self, inside: str, directory: bool) -> int:
        self.number += 1
        parent, name = self._parent(inside)
        self.names[parent, name] = self.number
        if directory:
            self.directories.add(self.number)
        else:
            self.sizes[self.number] = 0
        self.operations.append(Named(parent, name, self.number))
        return self.number

    def _openat(self, arguments: str, result: str) -> None:
        inside = self._inside(self._paths(arguments)[0])
        if inside is None:
            return
        node = self._node(inside)
        if node is None:
            assert "O_CREAT" in arguments, arguments
            node = self._new(inside, directory=False)
        elif "O_TRUNC" in arguments and self.sizes[node]:
            self._put(node, 0, None)
        match = _DESCRIPTOR.match(result)
        assert match is not None, result
        if node not in self.directories:
            # Reads are not followed: where they move the place of a write, nothing can be said.
            self.places[node, match[1]] = -2 if "O_APPEND" in arguments else -1 if "O_RDWR" in arguments else 0

    _open = _creat = _openat

    def _mkdirat(self, arguments: str, result: str) -> None:
        inside = self._inside(self._paths(arguments)[0])
        if inside:
            self._new(inside, directory=True)

    _mkdir = _mkdirat

    def _renameat2(self, arguments: str, result: str) -> None:
        old, new = (self._inside(path) for path in self._paths(arguments))
        if old is None and new is None:
            return
        assert old and new, arguments
        (directory, before), (target, after) = self._parent(old), self._parent(new)
        assert directory == target, "moved to another directory, which is not followed"
        node = self.names.pop((directory, before))
        self.names[directory, after] = node
        self.operations.append(Named(directory, after, node, before))

    _rename = _renameat = _renameat2

    def _unlinkat(self, arguments: str, result: str) -> None:
        inside = self._inside(self._paths(arguments)[0])
        if inside:
            parent, name = self._parent(inside)
            del self.names[parent, name]
            self.operations.append(Named(parent, name, None))

    _unlink = _rmdir = _unlinkat

    # Content.

    def _descriptor(self, arguments: str) -> tuple[int | None, str]:
        """The file that a call's first argument is, None outside or where it has no name any more, and its number."""
        match = _DESCRIPTOR.match(arguments)
        if match is None or match[3]:
            return None, ""
        inside = self._inside(_bytes(match[2]).decode(errors="replace"))
        return (None if inside is None else self._node(inside)), match[1]

    def _write(self, arguments: str, result: str) -> None:
        node, descriptor = self._descriptor(arguments)
        if node is None:
            return
        data = b"".join(_bytes(match[1]) for match in _STRING.finditer(arguments))[: int(result.split()[0])]
        place = self.places[node, descriptor]
        assert place != -1, "a write where reads may have moved the place"
        self._put(node, self.sizes[node] if place == -2 else place, data)
        if place >= 0:
            self.places[node, descriptor] = place + len(data)

    _writev = _write

    def _lseek(self, arguments: str, result: str) -> None:
        node, descriptor = self._descriptor(arguments)
        if node is not None and self.places.get((node, descriptor), -1) >= 0:
            self.places[node, descriptor] = int(result.split()[0])

    def _pwrite64(self, arguments: str, result: str) -> None:
        node, _ = self._descriptor(arguments)
        if node is not None:
            data = b"".join(_bytes(match[1]) for match in _STRING.finditer(arguments))[: int(result.split()[0])]
            self._put(node, int(arguments.rstrip(") ").rsplit(", ", 1)[1]), data)

    _pwritev = _pwrite64

    def _ftruncate(self, arguments: str, result: str) -> None:
        node, _ = self._descriptor(arguments)
        if node is not None:
            self._put(node, int(arguments.rstrip(") ").rsplit(", ", 1)[1]), None)

    def _truncate(self, arguments: str, result: str) -> None:
        inside = self._inside(self._paths(arguments)[0])
        if inside is not None and (node := self._node(inside)) is not None:
            self._put(node, int(arguments.rstrip(") ").rsplit(", ", 1)[1]), None)

    def _put(self, node: int, at: int, data: bytes | None) -> None:
        self.sizes[node] = at if data is None else max(self.sizes[node], at + len(data))
        self.operations.append(Written(node, at, data))

    def _fsync(self, arguments: str, result: str) -> None:
        node, _ = self._descriptor(arguments)
        if node is not None:
            self.operations.append(Flushed(node))

    _fdatasync = _fsync

    def _mmap(self, arguments: str, result: str) -> None:
        if "MAP_SHARED" in arguments and "PROT_WRITE" in arguments:
            paths = self._descriptor_paths(arguments)
            assert not any(self._inside(path) is not None for path in paths), f"a mapping that is written: {paths}"
