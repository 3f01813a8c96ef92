"""Power cuts: records what a process asks of a file system, and rebuilds what a disk may hold after any part of it.

The recording is strace's, so that it holds what Python, torch's writer and the HDF5 library really do. The rebuilt
states are those that POSIX allows and journaling file systems leave:

- What was written to a file and not flushed (fsync) may be there, not at all, as zeros, or torn at any byte.
- Names made, changed and removed in a directory and not flushed (fsync of the directory) may be there up to any one of
  them, in the order in which they were made; each directory has an order of its own.
- Nothing else is promised: not that a file's content is there before its new name, nor one file before another.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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


def acknowledge(what: str) -> None:
    """Notes, in a process that is recorded, that from here on ``what`` must not be lost: ``directory/something``."""
    try:
        os.rmdir(f"{ACKNOWLEDGED}/{what}")
    except OSError:
        pass


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
    """See :func:`acknowledge`."""

    what: str


Operation = Named | Written | Flushed | Acknowledged


class Content(NamedTuple):
    """What a file holds: its first ``kept`` writes, of which ``flushed`` are on the disk for certain.

    Of the others: ``zeros`` came to be there as zeros; ``torn`` is the share of the last one that is there.
    """

    node: int
    kept: int
    flushed: int
    zeros: bool = False
    torn: float = 1.0


class Recording:
    """What was asked of the file system below a directory, in order, and which numbers are directories'."""

    def __init__(self, operations: list[Operation], directories: set[int]) -> None:
        self.operations, self.directories = operations, directories
        self._writes: dict[int, list[Written]] = {}
        for operation in operations:
            if isinstance(operation, Written):
                self._writes.setdefault(operation.node, []).append(operation)
        self._digests: dict[Content, bytes] = {}
        self.content = lru_cache(maxsize=256)(self._content)  # many states have it in common

    def _content(self, wanted: Content) -> bytes:
        content = bytearray()
        for number, write in enumerate(self._writes.get(wanted.node, [])[: wanted.kept]):
            data = write.data
            if data is not None and number >= wanted.flushed:
                data = bytes(len(data)) if wanted.zeros else data
                if number == wanted.kept - 1 and wanted.torn < 1:
                    data = data[: int(wanted.torn * len(data))]
            if len(content) < write.at:
                content.extend(bytes(write.at - len(content)))
            if data is None:
                del content[write.at :]
            else:
                content[write.at : write.at + len(data)] = data
        return bytes(content)

    def digest(self, wanted: Content) -> bytes:
        """Of a content."""
        if wanted not in self._digests:
            self._digests[wanted] = hashlib.blake2b(self.content(wanted)).digest()
        return self._digests[wanted]


def record(
    command: Sequence[str], directories: Sequence[Path], log: Path, env: Mapping[str, str] | None = None
) -> list[Recording]:
    """Runs a command, which must end with status 0, and records what it does below each of some empty directories."""
    assert not any(path for directory in directories for path in directory.iterdir())
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(2**26), "-e", f"trace={','.join(CALLS)}"]
    done = subprocess.run([*strace, "-o", str(log), *command], env=env, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    return [_read(log, directory.resolve()) for directory in directories]


def _read(log: Path, below: Path) -> Recording:
    reader = _Reader(below)
    wanted = "".join(f"\\x{byte:02x}" for byte in str(below).encode())
    noted = "".join(f"\\x{byte:02x}" for byte in f"{ACKNOWLEDGED}/{below.name}/".encode())
    with open(log) as lines:
        for line in _whole_lines(lines):
            if wanted in line or noted in line:
                reader.take(line)
    recording = Recording(reader.operations, reader.directories)
    # Nothing was missed: what the recording comes to is what is there.
    found = {path.relative_to(below).as_posix(): path.read_bytes() for path in below.rglob("*") if path.is_file()}
    *_, (_, whole) = states(recording, ("kept",))
    told = {name: recording.content(content) for name, content in whole.tree().items() if content is not None}
    assert told.keys() == found.keys() and all(told[name] == found[name] for name in found), below
    return recording


def can_record() -> bool:
    """Whether strace is here and may look at processes."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True).returncode == 0


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
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


class _Reader:
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


# What a disk may hold.

#: ``kept``: all of it, as after a kill; ``lost``: what was flushed; ``names``: all names, and flushed content;
#: ``zeros``: all names and sizes, zeros for content; ``nameless``: all content under flushed names; else ``random``.
POLICIES = ("kept", "lost", "names", "zeros", "nameless", "random")


class State:
    """A disk's content after a cut.

    Attributes:
        recording: what was done.
        entries: the names in each directory.
        contents: what is in each file that was written to.
        acknowledged: what must not be lost.
    """

    def __init__(self, recording: Recording, acknowledged: list[str]) -> None:
        self.recording, self.acknowledged = recording, acknowledged
        self.entries: dict[int, dict[str, int]] = {}
        self.contents: dict[int, Content] = {}

    def tree(self, node: int = ROOT, prefix: str = "") -> dict[str, Content | None]:
        """Contents by path; None is a directory."""
        found: dict[str, Content | None] = {}
        for name, child in sorted(self.entries.get(node, {}).items()):
            if child in self.recording.directories:
                found[prefix + name] = None
                found |= self.tree(child, f"{prefix}{name}/")
            else:
                found[prefix + name] = self.contents.get(child, Content(child, 0, 0))
        return found

    def digest(self) -> bytes:
        """Of all that is there."""
        digest = hashlib.blake2b(repr(self.acknowledged).encode())
        for path, content in self.tree().items():
            digest.update(path.encode() + b"\0" + (b"" if content is None else self.recording.digest(content)))
        return digest.digest()

    def write(self, root: Path, pool: Path | None = None) -> None:
        """Makes it so below a directory, in place of what is there.

        Args:
            root: the directory.
            pool: another one, in which what is whole is kept and linked to; only for disks that are read.
        """
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for path, content in self.tree().items():
            if content is None:
                (root / path).mkdir()
            elif pool is None or content.kept != content.flushed:
                (root / path).write_bytes(self.recording.content(content))
            else:
                whole = pool / f"{content.node}-{content.kept}"
                if not whole.exists():
                    pool.mkdir(exist_ok=True)
                    whole.write_bytes(self.recording.content(content))
                os.link(whole, root / path)


class _Cut:
    """What was done before the power failed, and how much of it was flushed."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.names: dict[int, list[Named]] = {}
        self.written: dict[int, int] = {}
        self.flushed: dict[int, int] = {}
        self.acknowledged: list[str] = []

    def add(self, operation: Operation) -> None:
        if isinstance(operation, Named):
            self.names.setdefault(operation.directory, []).append(operation)
        elif isinstance(operation, Written):
            self.written[operation.node] = self.written.get(operation.node, 0) + 1
        elif isinstance(operation, Acknowledged):
            self.acknowledged.append(operation.what)
        elif operation.node in self.recording.directories:
            self.flushed[operation.node] = len(self.names.get(operation.node, ()))
        else:
            self.flushed[operation.node] = self.written.get(operation.node, 0)

    def state(self, policy: str, rng: random.Random) -> State:
        state = State(self.recording, list(self.acknowledged))
        for node, changes in self.names.items():
            least, most = self.flushed.get(node, 0), len(changes)
            kept = {"lost": least, "nameless": least, "random": rng.randint(least, most)}.get(policy, most)
            state.entries[node] = _names(changes[:kept])
        for node, count in self.written.items():
            state.contents[node] = _content(node, count, self.flushed.get(node, 0), policy, rng)
        return state


def _names(changes: Sequence[Named]) -> dict[str, int]:
    found: dict[str, int] = {}
    for change in changes:
        if change.old is not None:
            found.pop(change.old, None)
        if change.node is None:
            found.pop(change.name, None)
        else:
            found[change.name] = change.node
    return found


def _content(node: int, written: int, flushed: int, policy: str, rng: random.Random) -> Content:
    if written == flushed:
        return Content(node, written, flushed)
    if policy == "random":
        policy = rng.choice(("kept", "lost", "zeros", "torn", "torn"))
    if policy in ("lost", "names"):
        return Content(node, flushed, flushed)
    if policy == "torn":
        return Content(node, rng.randint(flushed + 1, written), flushed, torn=rng.random())
    return Content(node, written, flushed, zeros=policy == "zeros")


def states(
    recording: Recording,
    policies: Sequence[str] = POLICIES,
    randoms: int = 2,
    share: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[str, State]]:
    """Each different state that a cut may leave, and how it came about.

    Args:
        recording: what was done.
        policies: of :data:`POLICIES`.
        randoms: random mixtures at each point.
        share: of the points that are looked at; the last one always is.
        seed: of the mixtures, and of the points.
    """
    rng = random.Random(seed)
    seen = set()
    cut, last = _Cut(recording), len(recording.operations)
    for count in range(last + 1):
        if count:
            cut.add(recording.operations[count - 1])
        if count < last and rng.random() > share:
            continue
        for policy in policies:
            for _ in range(randoms if policy == "random" else 1):
                state = cut.state(policy, rng)
                if (digest := state.digest()) not in seen:
                    seen.add(digest)
                    operation = repr(recording.operations[count - 1])[:160] if count else "nothing"
                    yield f"cut after operation {count} of {last} ({operation}), {policy}", state
