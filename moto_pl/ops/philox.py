"""Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011). Compiled operator and plain-PyTorch reference.

A draw is a pure function of ``(seed, offset, stream, index)``. There is no generator state to save: a resumed run makes
the draws of the unbroken one. Both forms have the same bits, on any device: nothing chooses between them but whether
the operator was built for it. By hand, on purpose: what torch's generators draw depends on the order of calls and
on the device.

A captured CUDA graph keeps its kernels' arguments. :class:`KeyTable` holds the keys of a captured step in the device's
memory, where they are written anew before each replay.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from .extension import signed, use_compiled
from .share import Share

_MASK = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_WEYL_A, _WEYL_B = 0x9E3779B9, 0xBB67AE85


class Stream(IntEnum):
    """What a draw is for: keeps draws under one key apart."""

    LATENT = 0
    ACTION = 1
    MEMBER = 2
    ROWS = 3
    TARGET = 4
    NOISE = 5
    DETOUR = 6


class Key(NamedTuple):
    """Names a family of draws: ``seed`` is the run's, ``offset`` counts its uses, ``share`` says whose rows to draw.

    ``place`` is where a :class:`KeyTable` keeps it, if one does: operators then read it there.
    """

    seed: int
    offset: int
    share: Share = Share()
    place: Place | None = None

    @property
    def common(self) -> Key:
        """The same, of which all processes draw all."""
        return self._replace(share=Share())

    def fold(self, *data: int) -> Key:
        """A key of its own for each ``data``: a hash of the offset and the data, in 63 bits."""
        state = _mix(self.offset & _MASK64)
        for value in data:
            state = _mix(state ^ (value & _MASK64))
        return Key(self.seed, state >> 1, self.share, self.place and self.place.fold(data))

    @property
    def words(self) -> Tensor | None:
        """Seed and offset in the device's memory, int64 [2], where they are to be read from there."""
        return None if self.place is None else self.place.table.row(self)

    @property
    def arguments(self) -> tuple[int, int, Tensor | None]:
        """What an operator takes: seed and offset as signed integers, or, where they lie in its memory, only that."""
        words = self.words
        return (signed(self.seed), signed(self.offset), None) if words is None else (0, 0, words)


class Place(NamedTuple):
    """A key of a table: ``path`` is what its base was folded with on the way to it."""

    table: KeyTable
    path: tuple[tuple[int, ...], ...] = ()

    def fold(self, data: tuple[int, ...]) -> Place:
        """The place of the folded key."""
        return Place(self.table, (*self.path, data))


class KeyTable:
    """The keys that a captured step draws with, in the device's memory.

    While a step is captured, which runs nothing, each key that it draws with gets a row. Before each replay
    :meth:`write` gives all rows the values that the new step's key folds to, in one copy that waits for nothing.

    Args:
        device: whose memory.
        size: most keys of a step.
    """

    def __init__(self, device: torch.device, size: int = 64) -> None:
        self._rows = torch.zeros(size, 2, dtype=torch.int64, device=device)
        self._paths: dict[tuple[tuple[int, ...], ...], int] = {}
        self._key: Key | None = None  # that the rows follow from

    def base(self) -> Key:
        """The step's key; its draws, and those of the keys folded from it, are read from the table alone."""
        return Key(0, 0, place=Place(self))

    def row(self, key: Key) -> Tensor:
        """The row of a key folded from :meth:`base`: int64 [2]."""
        assert key.place is not None
        index = self._paths.get(key.place.path)
        if index is None:
            if len(self._paths) == len(self._rows):
                raise RuntimeError(f"a captured step draws with more than {len(self._rows)} keys")
            index = self._paths[key.place.path] = len(self._paths)
            if self._key is not None:  # nothing is captured: the draw is made now
                self._write(index, [self._folded(key.place.path)])
        return self._rows[index]

    def write(self, key: Key) -> None:
        """Gives all rows the values that follow from ``key`` in place of the base."""
        self._key = key
        if self._paths:
            self._write(0, [self._folded(path) for path in self._paths])

    def _folded(self, path: tuple[tuple[int, ...], ...]) -> Key:
        assert self._key is not None
        folded = Key(self._key.seed, self._key.offset)
        for data in path:
            folded = folded.fold(*data)
        return folded

    def _write(self, first: int, keys: list[Key]) -> None:
        # From pageable memory: it is copied aside before the call returns, so that the tensor may go.
        words = torch.tensor([(signed(key.seed), signed(key.offset)) for key in keys], dtype=torch.int64)
        self._rows[first : first + len(keys)].copy_(words, non_blocking=True)


def _mix(x: int) -> int:
    """SplitMix64's mixing function: neighbouring numbers, which steps are, come to lie far apart."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of ``a * b``; int64 wraps, but its bits are those of the unsigned product."""
    product = b * a
    return (product >> 32) & _MASK, product & _MASK


def philox_ref(key: Key, stream: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The definition of :func:`philox`, one PyTorch operation at a time. Same arguments and result."""
    blocks = (count + 3) // 4
    c0 = torch.arange(blocks, dtype=torch.int64, device=device)
    c1 = torch.full_like(c0, stream & _MASK)
    k0: int | Tensor
    k1: int | Tensor
    if (words := key.words) is None:
        c2 = torch.full_like(c0, key.offset & _MASK)
        c3 = torch.full_like(c0, (key.offset >> 32) & _MASK)
        k0, k1 = key.seed & _MASK, (key.seed >> 32) & _MASK
    else:
        low, high = words & _MASK, (words >> 32) & _MASK
        c2, c3 = low[1].expand_as(c0), high[1].expand_as(c0)
        k0, k1 = low[0], high[0]
    for _ in range(10):
        high_a, low_a = _multiply(_ROUND_A, c0)
        high_b, low_b = _multiply(_ROUND_B, c2)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + _WEYL_A) & _MASK, (k1 + _WEYL_B) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=1).flatten()[:count]


def _of_all(key: Key, shape: tuple[int, ...], rows: int | None) -> tuple[tuple[int, ...], int | None]:
    """The shape of what all processes draw together, and this one's first row of it; None where it draws for itself."""
    if rows is None or key.share.whole:
        return shape, None
    first, count = key.share.rows(shape[rows])
    rows %= len(shape)
    return (*shape[:rows], count, *shape[rows + 1 :]), first


def philox(key: Key, stream: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """``count`` random 32-bit words as int64 [count]. Word i is lane ``i % 4`` of block ``i // 4``."""
    words = _compiled(key, stream, count, device, torch.int64)
    return philox_ref(key, stream, count, device) if words is None else words


def _compiled(key: Key, stream: int, count: int, device: torch.device | str, dtype: torch.dtype) -> Tensor | None:
    """The operator's words (int64) or uniform numbers (float32, float64); None where it does not serve."""
    device = torch.device(device)
    if dtype not in (torch.int64, torch.float32, torch.float64) or not use_compiled("auto", device):
        return None
    like = torch.empty(0, dtype=dtype, device=device)
    drawn: Tensor = torch.ops.moto.philox(like, *key.arguments, stream, count)
    return drawn


def uniform_ref(
    key: Key,
    stream: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The definition of :func:`uniform`, one PyTorch operation at a time. Same arguments and result."""
    words = philox_ref(key, stream, math.prod(shape), device)
    return (((words >> 9).to(dtype) + 0.5) * 2.0**-23).reshape(shape)


def uniform(
    key: Key,
    stream: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int | None = None,
) -> Tensor:
    """Uniform draws in the open interval (0, 1), each an odd multiple of 2**-24, so exact in float32.

    Args:
        key: names them.
        stream: what they are for.
        shape: of the result.
        device: where it lies.
        dtype: its type.
        rows: the dimension that runs over a batch's rows, of which the key's share has some; None where all processes
            draw the same.
    """
    wanted, (shape, first) = shape, _of_all(key, shape, rows)
    drawn = _compiled(key, stream, math.prod(shape), device, dtype)
    drawn = uniform_ref(key, stream, shape, device, dtype) if drawn is None else drawn.reshape(shape)
    return drawn if rows is None or first is None else drawn.narrow(rows, first, wanted[rows])


def normal(
    key: Key,
    stream: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int | None = None,
) -> Tensor:
    """Standard normal draws by inversion of the uniform ones; arguments as there."""
    return torch.special.ndtri(uniform(key, stream, shape, device, torch.float64, rows)).to(dtype)


def integers(
    key: Key,
    stream: int,
    high: int,
    shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    rows: int | None = None,
) -> Tensor:
    """Integers in [0, high) as int64; the bias is below ``high / 2**32``. ``rows`` as in :func:`uniform`."""
    wanted, (shape, first) = shape, _of_all(key, shape, rows)
    drawn = ((philox(key, stream, math.prod(shape), device) * high) >> 32).reshape(shape)
    return drawn if rows is None or first is None else drawn.narrow(rows, first, wanted[rows])


def operator_key(key: Key, batch: int) -> tuple[int, int, Tensor | None, int, int]:
    """A key as operators on ``batch`` rows take it: its arguments, first row, and all rows or 0 for just these."""
    return *key.arguments, *((0, 0) if key.share.whole else key.share.rows(batch))
