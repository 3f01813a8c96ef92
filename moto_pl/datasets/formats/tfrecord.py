"""TFRecord files and the ``tf.train.Example`` in each record, read without TensorFlow.

A record is its length (8 bytes), a checksum of that, the data, and a checksum of the data. An Example is a protocol
buffer: a map from names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from moto_pl.datasets.formats.recorded import Damaged, damaged
from moto_pl.reading import open_regular

MAX_RECORD = 1 << 32
"""Bytes of one record, which is an episode."""
MAX_FEATURES = 10_000
_LANES = 1024
_POLYNOMIAL = 0x82F63B78

Values = list[bytes] | np.ndarray
"""What a feature holds: bytes, float32 [N] or int64 [N]."""


def offsets(path: Path) -> Iterator[tuple[int, int]]:
    """Where each record's data begins, and its bytes; a record that the file does not hold ends them with an error.

    Raises:
        Damaged: the file is cut short, or a length's checksum is wrong.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            place = 0
            while place < size:
                length = _length(file, size - place)
                yield place + 12, length
                place += 16 + length
                file.seek(place)
    except (OSError, ValueError) as error:
        if isinstance(error, Damaged):
            raise
        raise damaged(path, error) from error


def read_record(path: Path, offset: int, length: int) -> dict[str, Values]:
    """The features of a record's Example.

    Raises:
        Damaged: its checksum is wrong, or it is no Example.
    """
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read(length)
            if len(data) != length or int.from_bytes(file.read(4), "little") != _masked(crc32c(data)):
                raise ValueError("a checksum that does not match its record")
        return parse_example(memoryview(data))
    except (OSError, ValueError, MemoryError) as error:
        raise damaged(path, error, f"the record at byte {offset - 12}") from error


def parse_example(data: memoryview) -> dict[str, Values]:
    """The features of a serialized ``tf.train.Example``.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Values] = {}
    for _, features in _fields(data, 1):
        for _, entry in _fields(features, 1):
            parts = dict(_fields(entry, 1, 2))
            if len(found) >= MAX_FEATURES:
                raise ValueError(f"more than {MAX_FEATURES:,} features")
            found[bytes(parts.get(1, b"")).decode()] = _values(parts.get(2, memoryview(b"")))
    return found


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum, over a thousand stretches of the data at once: some 100 MB/s."""
    width = len(data) // _LANES if len(data) >= 8 * _LANES else 0
    table = _table()
    crc = 0xFFFFFFFF
    if width:
        lanes = np.zeros(_LANES, np.uint32)
        lanes[0] = crc
        for column in np.frombuffer(data, np.uint8, _LANES * width).reshape(_LANES, width).T:
            lanes = table[(lanes ^ column) & 0xFF] ^ (lanes >> np.uint32(8))
        # The checksum of two stretches in a row: the first's, moved on over as many zeros, and the second's.
        move = _zeros(width)
        crc = int(lanes[0])
        for lane in lanes[1:].tolist():
            crc = _apply(move, crc) ^ lane
    numbers = table.tolist()
    for byte in data[_LANES * width :]:
        crc = numbers[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _length(file: IO[bytes], left: int) -> int:
    header = file.read(12)
    if len(header) < 12 or int.from_bytes(header[8:], "little") != _masked(crc32c(header[:8])):
        raise ValueError("no record, or one that was cut short")
    length = int.from_bytes(header[:8], "little")
    if length > min(MAX_RECORD, left - 16):
        raise ValueError(f"a record that claims {length:,} bytes of {left:,}")
    return length


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> np.uint32(1)) ^ np.uint32(_POLYNOMIAL), crc >> np.uint32(1))
    return crc


@cache
def _zeros(count: int) -> tuple[int, ...]:
    """What ``count`` bytes of zero make of a checksum, as the images of its 32 bits."""
    table = _table().tolist()
    one = tuple(table[bit & 0xFF] ^ (bit >> 8) for bit in (1 << place for place in range(32)))
    result, power = tuple(1 << place for place in range(32)), one
    while count:
        if count & 1:
            result = tuple(_apply(power, image) for image in result)
        power = tuple(_apply(power, image) for image in power)
        count >>= 1
    return result


def _apply(images: tuple[int, ...], crc: int) -> int:
    result, place = 0, 0
    while crc:
        if crc & 1:
            result ^= images[place]
        crc >>= 1
        place += 1
    return result


def _fields(data: memoryview, *wanted: int) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message, by number; others are skipped."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, place = _varint(data, place)
            if length > len(data) - place:
                raise ValueError("a field that is longer than its message")
            if number in wanted:
                yield number, data[place : place + length]
            place += length
        elif kind == 0:
            _, place = _varint(data, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
    if place != len(data):
        raise ValueError("a message that was cut short")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a message that was cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number of more than 64 bits")


def _values(feature: memoryview) -> Values:
    """A Feature's list: of bytes (1), floats (2) or integers (3)."""
    for number, held in _fields(feature, 1, 2, 3):
        if number == 1:
            return [bytes(value) for _, value in _fields(held, 1)]
        if number == 2:
            return _floats(held)
        return _integers(held)
    return []


def _floats(held: memoryview) -> np.ndarray:
    """Packed floats, or one by one (kind 5), each behind a byte that says so."""
    if held[:1] == b"\x0d":
        if len(held) % 5 or (np.frombuffer(held, np.uint8)[::5] != 0x0D).any():
            raise ValueError("a list of floats that was cut short")
        return np.frombuffer(held, np.uint8).reshape(-1, 5)[:, 1:].copy().view("<f4")[:, 0]
    parts = [np.frombuffer(value, "<f4") for _, value in _fields(held, 1)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _integers(held: memoryview) -> np.ndarray:
    """Packed varints, or one by one (kind 0), each behind a byte that says so."""
    if held[:1] == b"\x08":
        values, place = [], 0
        while place < len(held):
            _, place = _varint(held, place)
            value, place = _varint(held, place)
            values.append(value)
        return np.array(values, np.uint64).view(np.int64)
    parts = [_varints(np.frombuffer(value, np.uint8)) for _, value in _fields(held, 1)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _varints(data: np.ndarray) -> np.ndarray:
    """Varints one behind another: int64."""
    ends = np.flatnonzero(data < 0x80)
    if len(data) and (len(ends) == 0 or ends[-1] != len(data) - 1):
        raise ValueError("a list of integers that was cut short")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    sizes = ends - starts + 1
    if (sizes > 10).any():
        raise ValueError("a number of more than 64 bits")
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, sizes))
    bits = (data & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(bits, starts).view(np.int64) if len(starts) else np.zeros(0, np.int64)
