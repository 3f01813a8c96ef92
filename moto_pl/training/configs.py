"""Configurations: where those that come along lie, what they extend, and what code they may name.

``extends`` is by hand, on purpose: jsonargparse takes several files on a command line, but none that names those that
it builds on.
"""

from __future__ import annotations

import importlib.util
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import moto_pl
from moto_pl.agents.earlier import check_settings
from moto_pl.errors import SettingError

#: The verbs that configurations tell what to do; the others have a few options each.
LIGHTNING_VERBS = ("fit", "validate", "test")

#: Packages whose classes a configuration file may name without being trusted by hand.
TRUSTED = ("moto_pl", "lightning")
# These call any function that a configuration names.
_CALLS_ANYTHING = ("LambdaCallback",)
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


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

    ``extends`` is a path, or a list of them, relative to the file that names it. A file may name classes of ours and of
    Lightning's alone, because others' files should not run others' code; ``--trust PACKAGE`` allows one more. What the
    user types is the user's own, and is not looked at.
    """
    trusted, args = _trusted(args)
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
        for ancestor in lineage(Path(path), trusted=trusted):
            expanded += ["--config", str(ancestor)]
    return expanded


def _trusted(args: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The packages that may be named, and the arguments without ``--trust``."""
    trusted, others = list(TRUSTED), []
    rest = iter(args)
    for arg in rest:
        name, given, value = arg.partition("=")
        if name != "--trust":
            others.append(arg)
            continue
        package = value if given else next(rest, None)
        if package is None:
            raise SettingError("--trust", "nothing", "Name a package, such as --trust my_package.")
        trusted.append(package)
    return tuple(trusted), others


def check_trust(content: Any, path: Path, trusted: tuple[str, ...] = TRUSTED) -> None:
    """Raises a SettingError where a configuration file names code of a package that is not trusted."""
    for name, value in _strings(content):
        if name.split(".")[0] == "extends":
            continue
        if value.endswith((".yaml", ".yml", ".json")):  # the argument parser reads a section from a file of its own
            for nested in {(base / value).resolve() for base in (Path(), path.parent)} - {path.resolve()}:
                if nested.is_file():
                    check_trust(_read_yaml(nested), nested, trusted)
            continue
        module, colon, _ = value.partition(":")
        # gymnasium imports the module of "module:id"; the argument parser what an import path names.
        if not (_IMPORT_PATH.fullmatch(value) or (colon and _IMPORT_PATH.fullmatch(f"{module}.x"))):
            continue
        package = module.split(".")[0]
        if value.split(".")[-1] in _CALLS_ANYTHING or (package not in trusted and _importable(package)):
            fix = f"If you trust it, say so: --trust {package}. It may then run whatever it likes."
            if package in trusted:
                fix = "It calls whatever the file names: write a callback of your own instead."
            raise SettingError(name, f"{value} in {path}", fix)


def _strings(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a YAML document that is a string, with its place."""
    if isinstance(content, str):
        yield name or "file", content
    elif isinstance(content, dict):
        for key, value in content.items():
            place = f"{name}.{key}" if name else str(key)
            yield from _strings(value, place)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _strings(value, f"{name}[{index}]")


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def lineage(path: Path, below: tuple[Path, ...] = (), trusted: tuple[str, ...] = TRUSTED) -> list[Path]:
    """A configuration and what it builds on, the furthest first.

    Args:
        path: the configuration.
        below: those that led to it.
        trusted: packages whose code it may name.

    Raises:
        SettingError: a file that cannot be read, a circle, or code that is not trusted.
    """
    if path in below:
        raise SettingError("extends", f"a circle through {path}", "Remove one of the links.")
    content = _read_yaml(path)
    check_trust(content, path, trusted)
    check_settings(content, path)
    parents = (content or {}).get("extends", []) if isinstance(content, dict) else []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise SettingError("extends", f"{parents!r} in {path}", "Give a path, or a list of them.")
    found: list[Path] = []
    for parent in parents:
        found += lineage((path.parent / parent).resolve(), (*below, path), trusted)
    return [*found, path]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingError("--config", path, f"{error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SettingError("--config", f"{path}, which is not YAML ({reason})", "Correct it.") from None
