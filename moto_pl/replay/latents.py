"""A replay of latent transitions, which only grows: in memory, with a file a round beside the checkpoints.

What is in it was encoded by a model that no longer is, so it can never be made again: it has to be kept.
"""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.files import make_directory, write_whole
from moto_pl.ops import Key, Stream, integers
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.replay.store import EpisodeStore

Half = Literal["real", "imagined"]
HALVES: tuple[Half, Half] = ("real", "imagined")
#: How features are kept: they are samples whose std is at least 0.1, which the half of the memory does justice to.
_KEPT = torch.float16


class LatentTransitions(NamedTuple):
    """N latent steps, without gradient.

    Attributes:
        state: features of where an action was taken [N, F].
        action: [N, A].
        reward: received for it [N]; predicted, and penalised, where the step was imagined.
        goes_on: float [N], 0 (or below 1) where the episode ended there.
        next_state: features of where it led [N, F].
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    goes_on: Tensor
    next_state: Tensor

    @classmethod
    def join(cls, parts: Iterable[LatentTransitions]) -> LatentTransitions:
        """One after another."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def kept(self) -> LatentTransitions:
        """As the replay keeps them: in host memory, features as float16."""
        state, action, reward, goes_on, next_state = (part.detach().cpu() for part in self)
        return LatentTransitions(state.to(_KEPT), action, reward, goes_on, next_state.to(_KEPT))


class LatentTable:
    """The newest ``capacity`` transitions, oldest first, in host memory.

    Memory is set aside for all of them at once, but the system gives it out as it is filled.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._end = 0  # transitions ever added: the next one's place, before it wraps
        self._parts: LatentTransitions | None = None

    def __len__(self) -> int:
        return min(self._end, self.capacity)

    def append(self, new: LatentTransitions) -> None:
        """Adds transitions; where there is no room the oldest make some."""
        new = LatentTransitions(*(part[-self.capacity :] for part in new.kept()))
        if self._parts is None:
            self._parts = LatentTransitions(
                *(torch.empty((self.capacity, *part.shape[1:]), dtype=part.dtype) for part in new)
            )
        at, count = self._end % self.capacity, len(new.reward)
        before_the_wrap = min(count, self.capacity - at)
        for target, source in zip(self._parts, new, strict=True):
            target[at : at + before_the_wrap] = source[:before_the_wrap]
            target[: count - before_the_wrap] = source[before_the_wrap:]
        self._end += count

    def clear(self) -> None:
        """Forgets all."""
        self._end = 0

    def rows(self, index: Tensor, device: torch.device | str = "cpu") -> LatentTransitions:
        """The transitions number ``index`` [N], 0 being the oldest, as float32 on ``device``."""
        assert self._parts is not None, "an empty table"
        place = (self._end - len(self) + index) % self.capacity
        return LatentTransitions(*(part[place].to(device).float() for part in self._parts))

    def pick(self, count: int, key: Key, device: torch.device | str) -> LatentTransitions:
        """``count`` transitions, drawn with replacement: the key's share of what all processes draw."""
        return self.rows(integers(key, Stream.ROWS, len(self), (count,), rows=0), device)


class LatentReplay:
    """What critics and policy learn from: transitions of real episodes, and imagined ones.

    Each half holds the newest ``capacity``. With a directory, whatever is added lies there in a file of its own before
    it is learned from; a checkpoint names these files, and :meth:`restore` reads them back.

    Args:
        capacity: transitions of each half.
        root: directory of the files; None keeps none.
        write: whether this process writes them.
    """

    def __init__(self, capacity: int, root: Path | None = None, write: bool = True) -> None:
        self.capacity, self.root, self.write = capacity, root, write
        self.real, self.imagined = LatentTable(capacity), LatentTable(capacity)
        self._chunks: dict[Half, deque[dict[str, Any]]] = {half: deque() for half in HALVES}

    def __getitem__(self, half: Half) -> LatentTable:
        return self.real if half == "real" else self.imagined

    def add(self, half: Half, new: LatentTransitions, number: int) -> None:
        """Adds to a half what round ``number`` makes.

        Raises:
            SettingError: the disk does not take it.
        """
        if not len(new.reward):
            return
        if self.root is not None:
            # A rank that does not write knows the names all the same; the first one's checkpoint has the checksums.
            content = _encode(new.kept())
            name = f"{half}-{number:06d}.pt"
            if self.write:
                self._write(self.root / name, content)
            self._chunks[half].append({"file": name, "rows": len(new.reward), "crc32": zlib.crc32(content)})
        self[half].append(new)
        self._forget(half)

    def clear(self) -> None:
        """Forgets all."""
        for half in HALVES:
            self[half].clear()
            self._chunks[half].clear()

    def manifest(self) -> dict[str, list[dict[str, Any]]]:
        """The files that hold what is known, oldest first: ``file``, ``rows`` and ``crc32`` of each, by half."""
        return {half: [dict(entry) for entry in self._chunks[half]] for half in HALVES}

    def restore(self, manifest: dict[str, list[dict[str, Any]]]) -> None:
        """Goes back to what a manifest names.

        Raises:
            SettingError: a file is missing, or not what it was.
        """
        self.clear()
        for half in HALVES:
            for entry in manifest[half]:
                self[half].append(self._read(entry))
                self._chunks[half].append(dict(entry))

    def left_over(self, needed: Iterable[dict[str, Any]] = ()) -> list[Path]:
        """This process's files that neither the replay nor one of the manifests ``needed`` names."""
        if self.root is None or not self.write:
            return []
        manifests = [self.manifest(), *needed]
        names = {entry["file"] for manifest in manifests for half in HALVES for entry in manifest[half]}
        return [path for half in HALVES for path in self.root.glob(f"{half}-*.pt") if path.name not in names]

    def _forget(self, half: Half) -> None:
        """Leaves out the files of which no transition is left."""
        chunks = self._chunks[half]
        while chunks and sum(entry["rows"] for entry in chunks) - chunks[0]["rows"] >= self.capacity:
            chunks.popleft()

    def _write(self, path: Path, content: bytes) -> None:
        try:
            make_directory(path.parent)
            write_whole(path, content)
        except OSError as error:
            raise SettingError(
                "trainer.default_root_dir",
                f"{path} could not be written ({error.strerror})",
                "Free disk space, or lower model.init_args.behaviour.replay_capacity, and run the same command again.",
            ) from error

    def _read(self, entry: dict[str, Any]) -> LatentTransitions:
        assert self.root is not None
        path = self.root / str(entry["file"])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _missing(path, str(error.strerror)) from error
        if zlib.crc32(content) != entry["crc32"]:
            raise _missing(path, "not the file that the checkpoint was made with")
        parts = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return LatentTransitions(**parts)


def crc_of(path: Path) -> int | None:
    """The checksum of a file of latents, as manifests have it; None where it cannot be read."""
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:
        return None


def transition_bytes(features: int, action: int) -> int:
    """What a transition takes, in memory and on the disk."""
    return 2 * features * _KEPT.itemsize + (action + 2) * 4


def whole_episodes(store: EpisodeStore, first: int, frames: int) -> Iterator[tuple[int, SequenceBatch]]:
    """The stored episodes from number ``first`` on, whole, several to a batch.

    Args:
        store: the episodes.
        first: number of the first one.
        frames: rows of a batch at most; an episode that is longer comes alone.

    Yields:
        The first episode's number and the batch, on the host. Shorter episodes are filled up with rows that are
        ``is_first``: no transition leads there.
    """
    while first < len(store):
        last, longest = first + 1, store[first].num_rows
        while last < len(store):
            wider = max(longest, store[last].num_rows)
            if (last + 1 - first) * wider > frames:
                break
            last, longest = last + 1, wider
        yield first, _padded(store, range(first, last), longest)
        first = last


def _padded(store: EpisodeStore, episodes: range, length: int) -> SequenceBatch:
    shape, example = (len(episodes), length), store[episodes[0]]
    image = np.zeros((*shape, *example.image_rows.shape[1:]), np.uint8)
    action, reward = np.zeros((*shape, example.action_rows.shape[1]), np.float32), np.zeros(shape, np.float32)
    is_first, is_terminal = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    vector = None if example.vector is None else np.zeros((*shape, example.vector.shape[1]), np.float32)
    for b, index in enumerate(episodes):
        episode = store[index]
        rows = episode.num_rows
        image[b, :rows], action[b, :rows] = episode.image_rows, episode.action_rows
        reward[b, :rows] = episode.reward_rows
        is_first[b, 1:rows], is_terminal[b, rows - 1] = False, episode.terminated
        if vector is not None:
            vector[b, :rows] = episode.vector
    parts = (torch.from_numpy(array) for array in (image, action, reward, is_first, is_terminal))
    return SequenceBatch(*parts)._replace(vector=None if vector is None else torch.from_numpy(vector))


def _encode(transitions: LatentTransitions) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: part.contiguous().clone() for name, part in transitions._asdict().items()}, buffer)
    return buffer.getvalue()


def _missing(path: Path, found: str) -> SettingError:
    fix = "Latents cannot be made again: put that file back, go on from another checkpoint, or start a new run."
    return SettingError("ckpt_path", f"a checkpoint that needs {path}: {found}", fix)
