"""What a checkpoint's pickle claims, read without unpickling it and without making a tensor.

``torch.load(weights_only=True)`` runs no code, but it believes sizes: a few hundred bytes make gigabytes, and a storage
that claims more than its record holds is read beyond its end. Here each instruction that ``torch.save`` writes is
followed by hand, with a note in each tensor's place; all others are refused.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto_pl.reading import check, open_regular

#: Bytes of an item of each kind of storage that a checkpoint may have.
_ITEM = {
    **{"FloatStorage": 4, "DoubleStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1},
}
_STORAGES = {f"torch {name}": name for name in _ITEM}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_ORDERED, _SET, _BYTES = "collections OrderedDict", "__builtin__ set", "_codecs encode"
_GLOBALS = {*_STORAGES, _TENSOR, _PARAMETER, _ORDERED, _SET, _BYTES}
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_MAX_PICKLE = 1 << 28


@dataclass(frozen=True)
class Claim:
    """A tensor in a checkpoint: what kind of storage it has, and which shape."""

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    items: int


def read_claims(path: Path) -> Any:
    """A checkpoint's content, with a :class:`Claim` in the place of each tensor.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: it is no checkpoint of ``torch.save``, or claims more than it holds.
        zipfile.BadZipFile: likewise.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
                raise ValueError("compressed or encrypted, which no checkpoint is")
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError(f"records of more bytes than the file's {size:,}")
            names = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(names) != 1 or len({entry.filename for entry in entries}) < len(entries):
                raise ValueError("no archive of torch.save")
            root = names[0].removesuffix("data.pkl")
            records = {e.filename.removeprefix(f"{root}data/"): e.file_size for e in entries}
            if archive.getinfo(names[0]).file_size > _MAX_PICKLE:
                raise ValueError(f"more than {_MAX_PICKLE:,} bytes beside its tensors")
            content = archive.read(names[0])
    try:
        machine = _Machine(records)
        claims = check(machine.run(content))
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from None
    if machine.claimed > 8 * size:
        raise ValueError(f"tensors of {machine.claimed:,} bytes in a file of {size:,}")
    return claims


class _Machine:
    """Follows a pickle's instructions; ``records`` are the bytes of each storage's record."""

    def __init__(self, records: dict[str, int]) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}
        self.claimed = 0  # bytes of all tensors; several may lie in one storage

    def run(self, content: bytes) -> Any:
        for op, argument, _ in pickletools.genops(content):
            name = op.name
            if name in _VALUES:
                self.stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                count = _TUPLES[name]
                self.stack[-count:] = [tuple(self.stack[-count:])]
            elif name == "GLOBAL":
                if argument not in _GLOBALS:
                    raise ValueError(f"{argument} in it, which is neither tensor nor plain value")
                self.stack.append(_Global(str(argument)))
            elif name == "STOP":
                return self.stack.pop()
            elif name != "PROTO":
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"the instruction {name} in it")
                step()
        raise ValueError("a pickle without end")

    def _marked(self) -> list[Any]:
        """Takes off the stack what lies above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _empty_list(self) -> None:
        self.stack.append([])

    def _tuple(self) -> None:
        self.stack.append(tuple(self._marked()))

    def _append(self) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def _appends(self) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def _setitem(self) -> None:
        key, item = self.stack[-2:]
        del self.stack[-2:]
        self._top(dict)[key] = item

    def _setitems(self) -> None:
        items = self._marked()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError
        return self.stack[-1]

    def _build(self) -> None:
        state = self.stack.pop()
        self._top(OrderedDict)  # its attributes, such as a state_dict's _metadata
        if not isinstance(state, dict):
            raise TypeError

    def _binpersid(self) -> None:
        word, kind, key, _, items = self.stack.pop()
        name = _STORAGES[kind.name]
        if word != "storage" or not isinstance(items, int) or self.records[key] != items * _ITEM[name]:
            raise ValueError(f"a storage {str(key)[:40]} that claims {items} items and has another size")
        self.stack.append(_Storage(name, items))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack.pop().name
        if called == _ORDERED and arguments == ():
            self.stack.append(OrderedDict())
        elif called == _SET and len(arguments) == 1 and isinstance(arguments[0], list):
            self.stack.append(set(arguments[0]))
        elif called == _BYTES and len(arguments) == 2 and all(isinstance(part, str) for part in arguments):
            self.stack.append(arguments[0].encode("latin1"))
        elif called == _PARAMETER and isinstance(arguments[0], Claim):
            self.stack.append(arguments[0])
        elif called == _TENSOR:
            claim = _claim(*arguments[:4])
            self.claimed += math.prod(claim.shape) * _ITEM[claim.kind]
            self.stack.append(claim)
        else:
            raise ValueError(f"a call of {called} in it")


def _claim(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Claim:
    """A tensor whose items lie within its storage, each once: no more of them than there are."""
    numbers = (offset, *shape, *stride)
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers) or len(shape) != len(stride):
        raise ValueError("a tensor without a shape")
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    items = math.prod(shape)
    if items > storage.items or (items and last >= storage.items):
        raise ValueError(f"a tensor of shape {list(shape)} in a storage of {storage.items} items")
    return Claim(storage.kind, shape)
