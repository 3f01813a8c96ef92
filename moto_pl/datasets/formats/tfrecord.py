"""TFRecord files and the ``tf.train.Example`` in each record, read without TensorFlow.

A record is its length (8 bytes), a checksum of that, the data, and a checksum of the data. An Example is a protocol
buffer: a map from names to lists of bytes, floats or integers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from moto_pl.datasets.formats.recorded import reading
from moto_pl.reading import open_regular

MAX_RECORD = 1 << 32
"""Bytes of one record, which is an episode."""
MAX_FEATURES = 10_000
#: ``tensorflow/core/example/example.proto`` and ``feature.proto``, of which there is no package without TensorFlow.
_SCHEMA = """
name: "example.proto"
syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: "BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type_name: "FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type_name: "Int64List" oneof_index: 0 }
  oneof_decl { name: "kind" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: "FeatureEntry" }
  nested_type {
    name: "FeatureEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: "Feature" }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: "Features" }
}
"""
_LANES = 1024
_POLYNOMIAL = 0x82F63B78

Values = list[bytes] | np.ndarray
"""What a feature holds: bytes, float32 [N] or int64 [N]."""


def offsets(path: Path) -> Iterator[tuple[int, int]]:
    """Where each record's data begins, and its bytes; a record that the file does not hold ends them with an error.

    Raises:
        Damaged: the file is cut short, or a length's checksum is wrong.
    """
    with reading(path, (OSError, ValueError)):
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            place = 0
            while place < size:
                length = _length(file, size - place)
                yield place + 12, length
                place += 16 + length
                file.seek(place)


def read_record(path: Path, offset: int, length: int) -> dict[str, Values]:
    """The features of a record's Example.

    Raises:
        Damaged: its checksum is wrong, or it is no Example.
    """
    with reading(path, (OSError, ValueError, MemoryError), f"the record at byte {offset - 12}"):
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read(length)
            if len(data) != length or int.from_bytes(file.read(4), "little") != _masked(crc32c(data)):
                raise ValueError("a checksum that does not match its record")
        return parse_example(data)


def parse_example(data: bytes) -> dict[str, Values]:
    """The features of a serialized ``tf.train.Example``.

    Raises:
        ValueError: it is none.
    """
    from google.protobuf.message import DecodeError

    try:
        features = _example().FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if len(features) > MAX_FEATURES:
        raise ValueError(f"more than {MAX_FEATURES:,} features")
    return {name: _values(feature) for name, feature in features.items()}


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


@cache
def _example() -> Any:
    """The class of ``tf.train.Example``; its package is imported once one is read."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Example"))


def _values(feature: Any) -> Values:
    """A Feature's list."""
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value)
