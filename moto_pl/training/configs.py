"""Configurations: where those that come along lie and what they extend."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import moto_pl
from moto_pl.errors import SettingError
from moto_pl.reading import MAX_YAML, parse_yaml, read_text

#: The verbs that configurations tell what to do; the others have a few options each.
LIGHTNING_VERBS = ("fit", "validate", "test")


def config_path(name: str) -> Path:
    """A configuration that comes with the package: ``debug`` or ``metaworld/door_open``."""
    roots = (
        Path(moto_pl.__file__).parent.parent / "configs",
        Path(sysconfig.get_path("data")) / "share/moto_pl/configs",
    )
    for root in roots:
        path = root / f"{name}.yaml"
        if path.exists():
            return path
    raise SettingError("config", name, f"No such file under {' or '.join(map(str, roots))}.")


def expand_configs(args: Sequence[str]) -> list[str]:
    """Puts the configurations that a configuration ``extends`` before it, so that it overrides them.

    ``extends`` is a path, or a list of them, relative to the file that names it. Whose code a file may name is
    not decided here, but where names become code: :mod:`moto_pl.trust`.
    """
    expanded: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, given, value = arg.partition("=")
        if name not in ("--config", "-c"):
            expanded.append(arg)
            continue
        path = value if given else next(rest, None)
        if path is None:
            expanded.append(arg)
            continue
        for ancestor in lineage(Path(path)):
            expanded += ["--config", str(ancestor)]
    return expanded


def lineage(path: Path, below: tuple[Path, ...] = ()) -> list[Path]:
    """A configuration and what it builds on, the furthest first.

    Args:
        path: the configuration.
        below: those that led to it.

    Raises:
        SettingError: a file that cannot be read, or a circle.
    """
    if path in below:
        raise SettingError("extends", f"a circle through {path}", "Remove one of the links.")
    content = _read_yaml(path)
    parents = (content or {}).get("extends", []) if isinstance(content, dict) else []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise SettingError("extends", f"{parents!r} in {path}", "Give a path, or a list of them.")
    found: list[Path] = []
    for parent in parents:
        found += lineage((path.parent / parent).resolve(), (*below, path))
    return [*found, path]


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(read_text(path, MAX_YAML))
    except OSError as error:
        raise SettingError("--config", path, f"{error.strerror}.") from None
    except ValueError as error:
        raise SettingError("--config", f"{path}, which cannot be read: {error}", "Correct it.") from None
