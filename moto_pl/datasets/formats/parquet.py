"""Parquet files within bounds: numbers of one episode, and embedded images one by one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moto_pl.datasets.formats.recorded import MAX_PIXELS, MAX_STEPS, Damaged, damaged, reading
from moto_pl.errors import MachineError, SettingError
from moto_pl.reading import open_regular

MAX_ROW_GROUP = 1 << 31
"""Bytes that a row group's columns may come to unpacked."""


def pyarrow() -> Any:
    """The package, which is an extra.

    Raises:
        MachineError: it is not installed.
    """
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        fix = 'Install what reads it: pip install "moto_pl[lerobot]".'
        raise MachineError("source", "a format in parquet files, and no pyarrow", fix) from error
    return pyarrow


class ParquetFile:
    """A parquet file whose claims are held against its size before anything is read.

    Args:
        path: the file, a regular one.

    Raises:
        Damaged: it is cut short, or no parquet.
    """

    def __init__(self, path: Path) -> None:
        arrow = pyarrow()
        self.path = path
        self._errors = (arrow.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)
        with reading(path, self._errors):
            self._file = arrow.parquet.ParquetFile(open_regular(path))
            self._metadata = self._file.metadata
            groups = range(self._metadata.num_row_groups)
            sizes = [self._metadata.row_group(group).total_byte_size for group in groups]
            self._rows = [self._metadata.row_group(group).num_rows for group in groups]
        if max(sizes, default=0) > MAX_ROW_GROUP or min([*sizes, *self._rows, 0]) < 0:
            raise Damaged(f"{path}, of which a part claims {max(sizes):,} bytes", "Write it in smaller row groups.")
        self.names = tuple(self._file.schema_arrow.names)

    def __len__(self) -> int:
        return int(sum(self._rows))

    def numbers(self, name: str, rows: range, width: int | None = None) -> np.ndarray:
        """Rows of a column of numbers: [rows], or [rows, width] where each row is a list.

        Raises:
            SettingError: the column is missing, of another type, or has an empty place.
            Damaged: it cannot be read.
        """
        self._check_column(name, rows, width)
        try:
            pieces = [_values(piece, width) for piece in self._batches(name, rows)]
        except _WrongType as wrong:
            found = f"{wrong} in column {name} of {self.path}"
            kind = "one number" if width is None else f"{width} numbers"
            raise SettingError("source", found, f"Expected {kind} in each row: write it again.") from None
        except self._errors as error:
            raise damaged(self.path, error, f"column {name}") from error
        if sum(map(len, pieces)) != len(rows):
            raise Damaged(f"{self.path}: {sum(map(len, pieces))} rows of {name} instead of {len(rows)}")
        return np.concatenate(pieces) if pieces else np.zeros((0,) if width is None else (0, width))

    def images(self, name: str, rows: range) -> Iterator[np.ndarray]:
        """Rows of a column of embedded images, decoded one by one: uint8 [H, W, 3]."""
        place = f"column {name}"
        with reading(self.path, self._errors, place):
            for piece in self._batches(name, rows, size=16):
                for value in piece:
                    content = value.as_py()
                    content = content.get("bytes") if isinstance(content, dict) else content
                    if not isinstance(content, bytes):
                        found = f"no image in column {name} of {self.path}"
                        raise SettingError("source", found, "Embed the images in the file, or store videos.")
                    yield decode_image(content, self.path, place)

    def _batches(self, name: str, rows: range, size: int = 4096) -> Iterator[Any]:
        """The column's arrays over some rows of the file, from the row groups that hold them."""
        for group, held in self._groups(rows):
            place = held.start
            for batch in self._file.iter_batches(size, row_groups=[group], columns=[name], use_threads=False):
                left, right = max(rows.start, place), min(rows.stop, place + batch.num_rows)
                if left < right:
                    yield batch.column(name).slice(left - place, right - left)
                place += batch.num_rows
                if place >= rows.stop:
                    break

    def _groups(self, rows: range) -> Iterator[tuple[int, range]]:
        """The row groups that hold some rows of the file, and which rows of the file each one holds."""
        start = 0
        for group, count in enumerate(self._rows):
            if start < rows.stop and rows.start < start + count:
                yield group, range(start, start + count)
            start += count

    def _check_column(self, name: str, rows: range, width: int | None) -> None:
        if name not in self.names:
            raise SettingError("source", f"no column {name} in {self.path}", f"There is {', '.join(self.names)}.")
        if len(rows) > MAX_STEPS:
            raise SettingError("source", f"{len(rows):,} rows in {self.path}", f"An episode may have {MAX_STEPS:,}.")
        for group, held in self._groups(rows):
            columns = (self._metadata.row_group(group).column(i) for i in range(self._metadata.num_columns))
            own = (column for column in columns if f"{column.path_in_schema}.".startswith(f"{name}."))
            values = sum(column.num_values for column in own)
            if values > 4 * len(held) * (width or 1) + 4096:
                found = f"{values:,} values in {len(held):,} rows of column {name} of {self.path}"
                raise SettingError("source", found, f"Expected {width or 1} in each row: write it again.")


class _WrongType(Exception):
    """What was found instead of numbers."""


def _values(array: Any, width: int | None) -> np.ndarray:
    arrow = pyarrow()
    types = arrow.types
    if array.null_count:
        raise _WrongType("an empty place")
    kind = array.type
    if width is not None and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        lengths = np.asarray(arrow.compute.list_value_length(array))
        if (lengths != width).any():
            raise _WrongType(f"lists of {', '.join(map(str, sorted(set(lengths.tolist()))[:3]))} numbers")
        flat = array.flatten()
        return _values(flat, None).reshape(len(array), width)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        values = np.asarray(array.to_numpy(zero_copy_only=False))
        if width is None:
            return values
        if width == 1:
            return values.reshape(len(values), 1)
    raise _WrongType(str(kind))


def decode_image(content: bytes, path: Path, place: str) -> np.ndarray:
    """A PNG or JPEG, as uint8 [H, W, 3].

    Raises:
        Damaged: it is none, or has too many pixels.
    """
    with reading(path, (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError), place):
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"an image of {image.width} x {image.height}")
            return np.asarray(image.convert("RGB"))
