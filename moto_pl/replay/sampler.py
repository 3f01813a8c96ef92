"""Draws batches of sequences. Sampling has no state: a batch is a function of where training stands."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, rows
from moto_pl.replay.episode_file import EpisodeView, will_need
from moto_pl.replay.store import EpisodeStore

Residency = Literal["auto", "host", "device"]

#: Share of a device's free memory that ``residency: auto`` takes at most for the rows stored or expected.
_DEVICE_SHARE = 0.25


class SequenceBatch(NamedTuple):
    """B sequences of T rows; row t holds the action that led to frame t and the reward received with it.

    Attributes:
        image: uint8 [B, T, 3 * M, H, W], M cameras' images one after another.
        action: float32 [B, T, A]; zero where ``is_first``.
        reward: float32 [B, T]; zero where ``is_first``.
        is_first: bool [B, T], true on the first row of an episode alone, and on what repeats it before its start.
        is_terminal: bool [B, T], true on the last row of an episode that terminated.
        vector: float32 [B, T, V], the state vectors as they were seen; None where none are learned from.
    """

    image: Tensor
    action: Tensor
    reward: Tensor
    is_first: Tensor
    is_terminal: Tensor
    vector: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> SequenceBatch:
        """The same function on every part that there is."""
        return SequenceBatch(*(None if part is None else function(part) for part in self))  # type: ignore[arg-type]

    @classmethod
    def join(cls, batches: Sequence[SequenceBatch]) -> SequenceBatch:
        """One after another."""
        joined = (None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True))
        return cls(*joined)  # type: ignore[arg-type]


def episode_batch(episode: Episode, device: torch.device) -> SequenceBatch:
    """One whole episode of T steps as a batch of a sequence of T + 1 rows."""
    parts = (None if part is None else torch.from_numpy(part) for part in rows(episode))
    return SequenceBatch(*parts).map(lambda part: part.unsqueeze(0).to(device))  # type: ignore[arg-type]


class EpisodeSet:
    """The episodes that sequences may come from, and how many rows of each, from its start. Not changed once made.

    Args:
        entries: (episode, rows) pairs; the order does not matter.
        length: rows of a sequence; shorter entries are left out.
        first_online: number of the first episode that was collected online; None where none is.

    Attributes:
        episodes: int64 [n], ascending.
        rows: int64 [n], usable rows of each, at least ``length``.
        length: rows of a sequence.
        left_out: entries that are shorter.
        offline: how many of the n are from before ``first_online``; they come first.

    Raises:
        SettingError: there are entries, and all are shorter than ``length``.
    """

    __slots__ = ("episodes", "left_out", "length", "offline", "rows")

    def __init__(self, entries: Iterable[tuple[int, int]], length: int, first_online: int | None = None) -> None:
        if length < 1:
            raise SettingError("length", length, "Give at least 1 row.")
        table = np.array(sorted(entries), np.int64).reshape(-1, 2)
        if (table[1:, 0] == table[:-1, 0]).any():
            raise SettingError("entries", "an episode twice", "Name each episode once.")
        fits = table[:, 1] >= length
        if len(table) and not fits.any():
            counts = Counter(table[:, 1].tolist())
            found = ", ".join(
                f"{count} episode{'s' * (count > 1)} of {rows} rows" for rows, count in sorted(counts.items())[-5:]
            )
            raise SettingError(
                "length",
                f"{length}, and {len(table)} usable episodes, all shorter (the longest: {found})",
                f"Use sequences of at most {max(counts)} rows, or longer episodes.",
            )
        self.episodes, self.rows = table[fits, 0].copy(), table[fits, 1].copy()
        self.length, self.left_out = length, int(len(table) - fits.sum())
        self.offline = len(self) if first_online is None else int(np.searchsorted(self.episodes, first_online))
        self.episodes.flags.writeable = self.rows.flags.writeable = False

    def __len__(self) -> int:
        return len(self.episodes)


class DeviceMirror:
    """The rows of all episodes as tensors on one device, from which batches are gathered there.

    It follows its store: new episodes are copied once, into tensors that double when they are full.

    Args:
        store: what to mirror.
        device: where the tensors lie.
    """

    def __init__(self, store: EpisodeStore, device: torch.device | str) -> None:
        self.store, self.device = store, torch.device(device)
        self._generation: int | None = None
        self._crcs: list[int] = []
        self._starts: list[int] = [0]
        self._rows: tuple[Tensor, ...] | None = None

    @classmethod
    def choose(
        cls, store: EpisodeStore, residency: Residency, device: torch.device | str, expected_bytes: int = 0
    ) -> DeviceMirror | None:
        """A mirror, or None where batches are to be gathered from the files.

        Args:
            store: the episodes.
            residency: ``device``, ``host``, or ``auto``: on a CUDA device, if the rows fit a quarter of its free
                memory.
            device: where training runs.
            expected_bytes: what the store will hold in the end.
        """
        if residency not in ("auto", "host", "device"):
            raise SettingError("data.residency", residency, "Use auto, host or device.")
        device = torch.device(device)
        if residency == "auto":
            if device.type != "cuda":
                return None
            free, _ = torch.cuda.mem_get_info(device)
            return cls(store, device) if max(expected_bytes, store.nbytes) <= free * _DEVICE_SHARE else None
        return cls(store, device) if residency == "device" else None

    def gather(self, episodes: np.ndarray, starts: np.ndarray, length: int) -> tuple[Tensor, ...]:
        """The rows from ``starts`` on in ``episodes``, on the device: image, action, reward and, if there are any,
        vectors, [B, length, ...] each.
        """
        self._follow()
        assert self._rows is not None
        first = np.array([self._starts[episode] for episode in episodes], np.int64)
        rows_of = np.maximum(starts[:, None] + np.arange(length), 0)  # before its start an episode repeats its first
        index = torch.from_numpy((first[:, None] + rows_of).ravel()).to(self.device)
        return tuple(rows.index_select(0, index).unflatten(0, (len(episodes), length)) for rows in self._rows)

    def _follow(self) -> None:
        if self._generation == self.store.generation:
            return
        generation, known = self.store.generation, list(self.store.known)
        same = 0
        while same < min(len(known), len(self._crcs)) and known[same].crc == self._crcs[same]:
            same += 1
        del self._crcs[same:], self._starts[same + 1 :]
        for number in range(same, len(known)):
            episode = self.store[number]
            begin, end = self._starts[-1], self._starts[-1] + episode.num_rows
            if self._rows is None:
                self._rows = self._allocated(episode, sum(e.num_rows for e in known))
            elif end > len(self._rows[0]):
                old, self._rows = self._rows, self._allocated(episode, max(end, 2 * len(self._rows[0])))
                for target, source in zip(self._rows, old, strict=True):
                    target[:begin] = source[:begin]
            for target, array in zip(self._rows, episode.arrays, strict=True):
                target[begin:end] = torch.from_numpy(array.copy())  # a copy: the file is mapped read-only
            self._crcs.append(episode.crc)
            self._starts.append(end)
        self._generation = generation

    def _allocated(self, episode: EpisodeView, capacity: int) -> tuple[Tensor, ...]:
        types = (torch.uint8 if array.dtype == np.uint8 else torch.float32 for array in episode.arrays)
        shapes = ((capacity, *array.shape[1:]) for array in episode.arrays)
        return tuple(torch.empty(s, dtype=t, device=self.device) for s, t in zip(shapes, types, strict=True))


class SequenceSampler:
    """Draws sequences: uniform over episodes, then over the rows at which a chunk can begin.

    A draw is a pure function of seed, stream, step, row of the batch over all ranks, and the episode set; nothing has
    to be saved for a resumed run to draw the batches of the unbroken one. Several ranks draw together what one would
    have drawn.

    Args:
        store: where the episodes are.
        seed: keys all draws.
        stream: keeps samplers under one seed apart.
        online_fraction: share in [0, 1] of a batch (over all ranks, to the nearest sequence) that comes from episodes
            collected online, once there is one; None is uniform over all.
        mirror: gathers on its device; None gathers from the files.
    """

    def __init__(
        self,
        store: EpisodeStore,
        seed: int,
        stream: str | int,
        online_fraction: float | None = None,
        mirror: DeviceMirror | None = None,
    ) -> None:
        if online_fraction is not None and not 0 <= online_fraction <= 1:
            raise SettingError("data.online_fraction", online_fraction, "Give a share in [0, 1], or null.")
        self.store, self.online_fraction, self.mirror = store, online_fraction, mirror
        if isinstance(stream, str):
            stream = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
        self._key = np.array([seed % 2**64, stream % 2**64], np.uint64)

    def sample(
        self,
        step: int,
        rank: int,
        world_size: int,
        batch_size: int,
        length: int,
        view: EpisodeSet,
        history: int = 0,
    ) -> SequenceBatch:
        """The batch of a gradient step.

        Args:
            step: the step, 0 or more.
            rank: this process, in [0, ``world_size``).
            world_size: processes that train together.
            batch_size: sequences of this process.
            length: rows of a sequence, at most ``view.length``.
            view: the episodes to draw from.
            history: a sequence may begin up to so many rows before its episode, which repeat its first; below
                ``length``.

        Returns:
            The batch, on the mirror's device or the host.

        Raises:
            SettingError: there is no episode to draw from, or a number is out of range.
        """
        episodes, starts = self.draw(step, rank, world_size, batch_size, length, view, history)
        chosen = [self.store[episode] for episode in episodes]
        is_first = starts[:, None] + np.arange(length) <= 0
        is_terminal = np.zeros((batch_size, length), np.bool_)
        is_terminal[:, -1] = [
            episode.terminated and start + length == episode.num_rows
            for episode, start in zip(chosen, starts, strict=True)
        ]
        flags = torch.from_numpy(is_first), torch.from_numpy(is_terminal)
        if self.mirror is not None:
            gathered = self.mirror.gather(episodes, starts, length)
            flags = flags[0].to(self.mirror.device), flags[1].to(self.mirror.device)
        else:
            gathered = self._gathered(chosen, starts, length)
        image, action, reward, *vector = gathered
        return SequenceBatch(image, action, reward, *flags, *vector)

    def _gathered(self, chosen: Sequence[EpisodeView], starts: np.ndarray, length: int) -> tuple[Tensor, ...]:
        """As :meth:`DeviceMirror.gather`, from the files."""
        # NumPy asks the system for huge pages: filling a fresh batch takes a third of the time.
        targets = [np.empty((len(chosen), length, *array.shape[1:]), array.dtype) for array in chosen[0].arrays]
        chunks = [slice(max(0, start), start + length) for start in starts]
        if self.store.beyond_memory:
            pairs = zip(chosen, chunks, strict=True)
            will_need(array[chunk] for episode, chunk in pairs for array in episode.arrays)
        for b, (episode, chunk, start) in enumerate(zip(chosen, chunks, starts, strict=True)):
            before = max(0, -start)
            for target, source in zip(targets, episode.arrays, strict=True):
                target[b, before:] = source[chunk]
                target[b, :before] = source[0]
        return tuple(map(torch.from_numpy, targets))

    def draw(
        self,
        step: int,
        rank: int,
        world_size: int,
        batch_size: int,
        length: int,
        view: EpisodeSet,
        history: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and first rows (int64 [``batch_size``] each) of a batch; see :meth:`sample`."""
        if not 0 <= rank < world_size:
            raise SettingError("rank", rank, f"Give 0 to {world_size - 1}: there are {world_size}.")
        if batch_size < 1:
            raise SettingError("batch_size", batch_size, "Give at least 1 sequence.")
        if step < 0:
            raise SettingError("step", step, "Give 0 or more.")
        if not 1 <= length <= view.length:
            raise SettingError("length", length, f"The episode set was made for sequences of {view.length} rows.")
        if not 0 <= history < length:
            raise SettingError("history", history, f"Give fewer rows than the sequence's {length}, and no less than 0.")
        if not len(view):
            raise SettingError(str(self.store.root), "no episode to draw from", "Give a dataset, or collect first.")
        # The counter's low half counts the words of one batch; its high half is the step, so batches never overlap.
        generator = np.random.Philox(key=self._key, counter=np.array([0, 0, step, 0], np.uint64))
        total = batch_size * world_size
        words = generator.random_raw(total)[rank * batch_size : (rank + 1) * batch_size]
        first, count = self._pools(rank * batch_size, batch_size, total, view)
        # A 32-bit draw scaled to n values is uniform up to n / 2**32.
        position = first + (((words >> np.uint64(32)) * count) >> np.uint64(32)).astype(np.int64)
        choices = (view.rows[position] - length + 1 + history).astype(np.uint64)
        starts = ((words & np.uint64(2**32 - 1)) * choices) >> np.uint64(32)
        return view.episodes[position], starts.astype(np.int64) - history

    def _pools(self, begin: int, batch_size: int, total: int, view: EpisodeSet) -> tuple[np.ndarray, np.ndarray]:
        """For each row of the batch, the part of the set that it draws from: first position and count."""
        online = np.zeros(batch_size, np.bool_)
        offline_count, online_count = view.offline, len(view) - view.offline
        if self.online_fraction is None or 0 in (offline_count, online_count):
            offline_count = len(view)
        else:
            # Spread evenly over the whole batch, so that each rank gets its share.
            share, row = round(self.online_fraction * total), np.arange(begin, begin + batch_size)
            online = (row + 1) * share // total > row * share // total
        return np.where(online, offline_count, 0), np.where(online, online_count, offline_count).astype(np.uint64)
