"""Whose code may be named: the one gate where names become code, for class paths and for environments.

A class path becomes code in jsonargparse, which asks its import policy; a gymnasium id becomes code in
:func:`moto_pl.envs.make`, which asks :func:`check_environment`. Both know the same packages for as long as a command
runs. Python code that calls us without a command is the user's own, and may name what it likes.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from moto_pl.errors import SettingError

#: Packages whose classes a file may name without being trusted by hand.
TRUSTED = ("moto_pl", "lightning")
#: These call any function that a file names, so no file may name them.
CALLS_ANYTHING = (
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.lambda_function.LambdaCallback",
)
# In the environment, so that it reaches workers, collectors and ranks however they are started.
VARIABLE = "MOTO_PL_TRUSTED"
# Registered environments that may be named without trust: gymnasium's own.
_ENVIRONMENTS = ("gymnasium",)
_NAME = re.compile(r"([A-Za-z_]\w*)((\.[A-Za-z_]\w*)+|(\.[A-Za-z_]\w*)*:.+)")
_FILES = ("--config", "-c")


def split_trust(args: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The packages that a command line trusts, and its arguments without ``--trust``.

    What the user types is the user's own: its packages are trusted too. What a file says that the user named is not. A
    command that another command started, such as a run of a campaign, was not typed: it trusts what that one trusts.
    """
    above = os.environ.get(VARIABLE)
    packages, others = list(TRUSTED) if above is None else above.split(","), []
    rest = iter(args)
    before = ""
    for arg in rest:
        name, given, value = arg.partition("=")
        if name == "--trust":
            package = value if given else next(rest, "")
            if not package.isidentifier():
                raise SettingError("--trust", package or "nothing", "Name a package, such as --trust my_package.")
            packages.append(package)
            continue
        if above is None and name not in _FILES and before not in _FILES:
            packages += _typed(value if given and name.startswith("-") else arg)
        others.append(arg)
        before = arg
    return tuple(dict.fromkeys(packages)), others


def _typed(value: str) -> Iterator[str]:
    """The packages that a typed value names; a file is a file, whatever it is called."""
    try:
        content = yaml.safe_load(value) if value[:1] in ("{", "[") else value
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    waiting: list[Any] = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and (match := _NAME.fullmatch(item)) and not os.path.lexists(item):
            yield match[1]


@contextmanager
def gate(packages: Sequence[str]) -> Iterator[None]:
    """Lets names become code of these packages alone, in this process and those that it starts."""
    # Its settings can be added to but, in public, not taken back.
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings

    extra = [package for package in packages if package not in TRUSTED and package != "jsonargparse"]
    above, before = os.environ.get(VARIABLE), dict(parsing_settings)
    os.environ[VARIABLE] = ",".join(packages)
    set_parsing_settings(
        import_path_denylist=["*", *CALLS_ANYTHING],
        import_path_allowlist=[*TRUSTED, *extra],
        instantiate_subclass_spec_in_any=False,  # env_kwargs hold values, whatever they look like
    )
    try:
        yield
    finally:
        parsing_settings.update(before)
        if above is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = above


def _trusts(name: str, also: Sequence[str] = ()) -> bool:
    """Whether a running command, if there is one, trusts the package of a name."""
    packages = os.environ.get(VARIABLE)
    return packages is None or re.split(r"[.:]", name)[0] in (*packages.split(","), *also)


def check_class_path(setting: str, path: str) -> None:
    """Raises a SettingError where a class path names a package that a running command does not trust."""
    if not _trusts(path):
        raise untrusted(setting, path)


def check_environment(setting: str, env_id: str) -> None:
    """Raises a SettingError where ``module:id`` names a module whose package a running command does not trust."""
    if ":" in env_id and not _trusts(env_id):
        raise untrusted(setting, env_id)


def check_entry_point(setting: str, env_id: str, entry_point: object) -> None:
    """Raises a SettingError where a registered id would be made by a package that a running command does not trust."""
    if isinstance(entry_point, str) and not _trusts(entry_point, _ENVIRONMENTS):
        error = untrusted(setting, entry_point)
        raise SettingError(setting, f"{env_id}, which is made by {entry_point}", error.fix)


def check_classes(config: Any) -> None:
    """Raises a SettingError where a value of a configuration is a function of ours or Lightning's.

    A setting names classes, which jsonargparse holds against what the place asks for; a function is held against
    nothing. What is no setting but an object, such as a default, nobody has named.
    """
    from jsonargparse import Namespace  # here: a list of verbs does not wait for it

    waiting = [config]
    while waiting:
        value = waiting.pop()
        if inspect.isroutine(value):
            name = f"{value.__module__}.{value.__qualname__}"
            if VARIABLE in os.environ and name.split(".")[0] in TRUSTED:
                raise untrusted("class_path", name)
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict | Namespace):
            waiting += (value if isinstance(value, dict) else vars(value)).values()


def untrusted(setting: str, name: str) -> SettingError:
    """The error for a name that may not become code."""
    package = re.split(r"[.:]", name)[0]
    if package in TRUSTED:
        return SettingError(setting, name, "Name a class of ours or Lightning's that calls nothing else.")
    return SettingError(
        setting, name, f"If you trust it, say so: --trust {package}. It may then run whatever it likes."
    )
