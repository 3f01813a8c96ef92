"""What others hand us, read within bounds: regular files alone, sizes and structure looked at before they are used.

Each reader here raises an ``OSError`` for what is no file to read and a ``ValueError`` for what is in it, in one line;
who calls it says which setting, file or dataset that was.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import types
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Union, get_args, get_origin

import yaml

#: Largest text that is read as a whole; a run of 100,000 evaluated episodes writes 20 MB.
MAX_TEXT = 1 << 28
#: Largest configuration.
MAX_YAML = 1 << 20
#: Values of a document, each as often as it is named, and how deep they may lie.
MAX_VALUES, MAX_DEPTH = 10_000_000, 64


def open_regular(path: str | os.PathLike[str], inside: Path | None = None) -> IO[bytes]:
    """Opens a file to read it: no pipe, which may never end, nor a device.

    Args:
        path: the file.
        inside: a directory of others' that it has to lie in: a link that leads elsewhere is refused.

    Raises:
        OSError: it is none.
    """
    return os.fdopen(open_descriptor(path, inside), "rb")


def open_descriptor(path: str | os.PathLike[str], inside: Path | None = None) -> int:
    """As :func:`open_regular`, for who reads by descriptor."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if inside is not None:
        if not Path(path).resolve().is_relative_to(inside.resolve()):
            raise OSError(errno.ELOOP, f"a link that leads out of {inside}", str(path))
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return descriptor


def is_inside(path: Path, directory: Path) -> bool:
    """Whether a path is a regular file in a directory of others', and no link."""
    try:
        open_regular(path, directory).close()
    except OSError:
        return False
    return True


def read_bytes(path: Path, limit: int = MAX_TEXT, inside: Path | None = None) -> bytes:
    """A file's content.

    Raises:
        OSError: it is no file to read.
        ValueError: it is larger than ``limit``.
    """
    with open_regular(path, inside) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return content


def read_text(path: Path, limit: int = MAX_TEXT, errors: str = "strict") -> str:
    """As :func:`read_bytes`, of UTF-8."""
    return read_bytes(path, limit).decode(errors=errors)


def read_json(path: Path, shape: Any = Any, limit: int = MAX_TEXT) -> Any:
    """A file of JSON, of a shape as for :func:`check`."""
    return parse_json(read_bytes(path, limit), shape)


def parse_json(text: str | bytes, shape: Any = Any) -> Any:
    """JSON of a shape as for :func:`check`.

    Raises:
        ValueError: it is none, or of another shape.
    """
    try:
        return check(json.loads(text), shape)
    except RecursionError:
        raise ValueError("too deep") from None


class Loader(yaml.SafeLoader):
    """YAML whose merge keys (``<<``) cannot grow beyond a memory, as a few lines of them may."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what is merged among a mapping's own pairs."""
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        if any(isinstance(value, yaml.SequenceNode) and len(value.value) > 16 for value in merged):
            raise yaml.constructor.ConstructorError(None, None, "too many merged mappings", node.start_mark)
        super().flatten_mapping(node)
        if len(node.value) > 100_000:
            raise yaml.constructor.ConstructorError(None, None, "too large a mapping", node.start_mark)


def parse_yaml(text: str, loader: Any = Loader) -> Any:
    """YAML, whose aliases may name each other, so that a few lines stand for more than a memory holds.

    Raises:
        ValueError: it is none, or too large or too deep.
    """
    try:
        return check(yaml.load(text, loader))
    except (yaml.YAMLError, RecursionError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not YAML ({' '.join(str(error).split()) or 'too deep'})") from None


def check(value: Any, shape: Any = Any, place: str = "") -> Any:
    """Holds a value against a shape, and its size and depth against their limits; returns the value.

    Args:
        value: plain values.
        shape: a type, a union of types, ``list[shape]`` or ``[shape]``, ``dict[str, shape]``, a tuple of the shapes of
            a list's items, a mapping of names to the shapes of what a dictionary has to hold (a name that ends in ``?``
            may be missing, others may be there), or ``Any``.
        place: what the value is called.

    Raises:
        ValueError: says what is wrong where.
    """
    _count(value, {}, 0)
    _match(value, shape, place)
    return value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a document by dotted names, which begin with ``prefix``; one that is no object is ``prefix``'s."""
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for name, item in value.items():
        out |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
    return out


def _count(value: Any, known: dict[int, int | None], depth: int) -> int:
    """Values in a value, those that are named twice counted twice, without going through them twice."""
    if not isinstance(value, dict | list | tuple):
        return 1
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if id(value) in known:
        found = known[id(value)]
        if found is None:
            raise ValueError("it holds itself")
        return found
    known[id(value)] = None
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    total = 1 + sum(_count(part, known, depth + 1) for part in parts)
    if total > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES:,} values")
    known[id(value)] = total
    return total


def _match(value: Any, shape: Any, place: str) -> None:
    if shape is Any:
        return
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{place or 'it'} is {_kind(value)}, not an object")
        for name, part in shape.items():
            key = name.removesuffix("?")
            if key in value:
                _match(value[key], part, f"{place}.{key}" if place else key)
            elif key == name:
                raise ValueError(f"{place or 'it'} has no {key}")
        return
    if isinstance(shape, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(shape):
            raise ValueError(f"{place or 'it'} is no list of {len(shape)}")
        for index, part in enumerate(shape):
            _match(value[index], part, f"{place}[{index}]")
        return
    kind, parts = (list, tuple(shape)) if isinstance(shape, list) else (get_origin(shape), get_args(shape))
    if kind in (Union, types.UnionType):
        if not any(_fits(value, part) for part in parts):
            raise ValueError(f"{place or 'it'} is {_kind(value)}")
        return
    if kind in (list, dict):
        if not isinstance(value, kind):
            raise ValueError(f"{place or 'it'} is {_kind(value)}, not a {kind.__name__}")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if kind is dict and not isinstance(key, parts[0]):
                raise ValueError(f"{place or 'it'} has a key that is {_kind(key)}")
            _match(item, parts[-1], f"{place}[{key!r}]" if kind is list else f"{place}.{str(key)[:80]}")
        return
    if not (isinstance(value, shape) if not isinstance(value, bool) else shape in (bool, object)):
        raise ValueError(f"{place or 'it'} is {_kind(value)}, not {shape.__name__}")
    if shape is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{place or 'it'} is beyond 64 bits")


def _fits(value: Any, shape: Any) -> bool:
    try:
        _match(value, type(None) if shape is None else shape, "")
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
