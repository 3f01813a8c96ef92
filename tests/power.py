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
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from power_log import ACKNOWLEDGED, CALLS, ROOT, Acknowledged, Named, Operation, Reader, Written, whole_lines


def acknowledge(what: str) -> None:
    """Notes, in a process that is recorded, that from here on ``what`` must not be lost: ``directory/something``."""
    try:
        os.rmdir(f"{ACKNOWLEDGED}/{what}")
    except OSError:
        pass


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
    reader = Reader(below)
    wanted = "".join(f"\\x{byte:02x}" for byte in str(below).encode())
    noted = "".join(f"\\x{byte:02x}" for byte in f"{ACKNOWLEDGED}/{below.name}/".encode())
    with open(log) as lines:
        for line in whole_lines(lines):
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
