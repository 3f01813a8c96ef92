"""Configurations: where those that come along lie, and what they are made of.

A run is a task, a size and an agent. The last two are words, ``--size cpu --agent bc``, or keys of a configuration.
Each names a file in ``configs/sizes`` or ``configs/agents``. These files come first, and configurations and settings
override them, so that the order of the words does not matter.

``extends`` is by hand, on purpose: jsonargparse takes several files on a command line, but none that names those that
it builds on.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import moto_pl
from moto_pl.errors import SettingError
from moto_pl.reading import MAX_YAML, parse_yaml, read_text

#: The verbs that configurations tell what to do; the others have a few options each.
LIGHTNING_VERBS = ("fit", "validate", "test")

#: What a run is made of, beside its task: a word each, for which there is a file in the folder.
FOLDERS = {"size": "sizes", "agent": "agents"}
# Keys of a configuration that are for us, not for the parser.
_OURS = ("extends", "for", *FOLDERS)


class Config(NamedTuple):
    """A configuration file, read."""

    path: Path
    content: dict[str, Any]


def config_path(name: str) -> Path:
    """A configuration that comes with the package: ``debug`` or ``tasks/metaworld/door_open``."""
    for root in _roots():
        path = root / f"{name}.yaml"
        if path.exists():
            return path
    raise SettingError("config", name, f"No such file under {' or '.join(map(str, _roots()))}.")


def config_names(folder: str) -> dict[str, Path]:
    """The configurations in a folder of those that come along, by name: ``sizes``, ``agents`` or ``tasks``."""
    found: dict[str, Path] = {}
    for root in reversed(_roots()):
        base = root / folder
        found |= {path.relative_to(base).with_suffix("").as_posix(): path for path in sorted(base.rglob("*.yaml"))}
    return found


def _roots() -> tuple[Path, ...]:
    return (
        Path(moto_pl.__file__).parent.parent / "configs",
        Path(sysconfig.get_path("data")) / "share/moto_pl/configs",
    )


def expand_configs(args: Sequence[str], *, sized: bool = True) -> list[str]:
    """What ``moto fit``'s parser is given: every configuration with what it is made of before it.

    A configuration ``extends`` others (paths relative to its own), which it overrides. Settings below ``for`` hold for
    some agents or tasks alone: ``for: {bc iql: {data: ...}, kitchen: ...}``; they override the rest of their file.
    Whose code a file may name is not decided here, but where names become code: :mod:`moto_pl.trust`.

    Args:
        args: as the user typed them.
        sized: whether the size is put in, which gives settings that nobody asked for by name.

    Raises:
        SettingError: a file that cannot be read; a word that is not known, or given twice.
    """
    typed, args = _typed(args)
    items = list(_read_configs(args))
    configs = [item for item in items if isinstance(item, Config)]
    words = {
        **{name: config.content[name] for config in configs for name in FOLDERS if name in config.content},
        **typed,
    }
    named = _named_class(items)
    foundation = _foundation(words, typed, named)
    meant = {str(words.get("agent")), *_task_words(configs)}
    _check_effect(typed.get("size"), foundation, configs, meant)
    if not sized:
        foundation = [config for config in foundation if config.path.parent.name != FOLDERS["size"]]
    if named is not None and _word_of(named) != words.get("agent"):
        words.pop("agent", None)  # the class says what is trained
    start = 1 if args and not args[0].startswith("-") else 0  # after the verb
    expanded: list[str] = [item for item in items[:start] if isinstance(item, str)]
    for item in (*foundation, *items[start:]):
        expanded += [item] if isinstance(item, str) else _as_arguments(item, meant)
    return expanded + [f"--{name}={word}" for name, word in words.items()]


def settings_of(*args: str) -> dict[str, Any]:
    """What configurations and words come to, without the parser's defaults.

    Args:
        args: ``--config``, ``--size`` and ``--agent`` with their values; others are left out.
    """
    merged: dict[str, Any] = {}
    rest = iter(expand_configs(args))
    for arg in rest:
        if arg == "--config":
            value = next(rest)
            merge(merged, yaml.safe_load(value) if value.startswith("{") else _read_yaml(Path(value)) or {})
    return merged


def merge(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts nested ``changes`` into ``settings``."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(settings.get(name), dict):
            merge(settings[name], value)
        else:
            settings[name] = dict(value) if isinstance(value, Mapping) else value


def _typed(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The words of the command line by what they name, and the other arguments."""
    words: dict[str, str] = {}
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        option, given, value = arg.partition("=")
        name = option.removeprefix("--")
        if option not in ("--size", "--agent"):
            others.append(arg)
            continue
        word = value if given else next(rest, "nothing")
        if name in words:
            raise SettingError(f"--{name}", f"{words[name]}, then {word}", "Give one.")
        words[name] = word
    return words, others


def _read_configs(args: Sequence[str]) -> Iterator[str | Config]:
    """The arguments, each configuration read, after those that it extends."""
    rest = iter(args)
    for arg in rest:
        name, given, value = arg.partition("=")
        path = value if given else next(rest, None) if name in ("--config", "-c") else None
        if name not in ("--config", "-c") or path is None:
            yield arg
        else:
            yield from lineage(Path(path))


def _foundation(words: Mapping[str, Any], typed: Mapping[str, str], named: str | None) -> list[Config]:
    """The agent's file and then the size's, which what the user gives goes on top of."""
    found = []
    for name in ("agent", "size"):
        if name in words:
            known = config_names(FOLDERS[name])
            if str(words[name]) not in known:
                setting = f"--{name}" if name in typed else name
                raise SettingError(setting, words[name], f"Give one of {', '.join(known)}.")
            found += lineage(known[str(words[name])])
    word = None if named is None else _word_of(named)
    for name in ("agent", "size"):  # a class in a file or an argument goes on top, and would undo them
        if name in typed and word not in (None, words.get("agent")):
            fix = f"Give --agent {word} in place of the class."
            raise SettingError(f"--{name}", f"{typed[name]}, beside the class {named}", fix)
    return found


def _named_class(items: Sequence[str | Config]) -> str | None:
    """The agent's class that files and arguments name last."""
    named: Any = None
    for place, item in enumerate(items):
        if isinstance(item, Config):
            model = item.content.get("model")
            named = (model.get("class_path") if isinstance(model, dict) else model) or named
            continue
        name, given, value = item.partition("=")
        if name in ("--model", "--model.class_path"):
            after = items[place + 1] if place + 1 < len(items) else None
            named = value if given else after if isinstance(after, str) else named
    return named if isinstance(named, str) else None


def _word_of(named: str) -> str | None:
    """The word for an agent's class; None where it is not one of ours."""
    for word, path in config_names(FOLDERS["agent"]).items():
        if _read_yaml(path)["model"]["class_path"].rpartition(".")[2] == named.rpartition(".")[2]:
            return word
    return None


def _check_effect(size: str | None, foundation: Sequence[Config], configs: Sequence[Config], meant: set[str]) -> None:
    """Refuses a size of which nothing is left: a run's own ``config.yaml``, say, holds every setting."""
    given = [config for config in foundation if config.path.parent.name == FOLDERS["size"]]
    if size is None or not (wanted := _leaves(given, meant)) or wanted - _leaves(configs, meant):
        return
    paths = " and ".join(str(config.path) for config in configs)
    raise SettingError("--size", size, f"It would change nothing: {paths} has each of its settings itself.")


def _leaves(configs: Sequence[Config], meant: set[str]) -> set[str]:
    """Dotted names of what configurations set."""
    names = set()
    for config in configs:
        own = {key: value for key, value in config.content.items() if key not in _OURS}
        for part in (own, *_sections(config, meant)):
            names |= {name.removeprefix(".") for name in _names(part)}
    return names


def _names(content: Any, name: str = "") -> Iterator[str]:
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _names(value, f"{name}.{key}")
    else:
        yield name


def _task_words(configs: Sequence[Config]) -> set[str]:
    """What the last task among them is called below ``for``: ``kitchen/mixed``, and ``kitchen``."""
    tasks = {path.resolve(): name for name, path in config_names("tasks").items()}
    named = [tasks[config.path.resolve()] for config in configs if config.path.resolve() in tasks]
    return {named[-1], named[-1].partition("/")[0]} if named else set()


def _as_arguments(config: Config, meant: set[str]) -> list[str]:
    """A configuration for the parser: its file, or, where the parser does not know some of its keys, the others."""
    content = {key: value for key, value in config.content.items() if key not in _OURS}
    if config.path.is_file() and len(content) == len(config.content):
        arguments = [str(config.path)]
    else:
        # Other files that it names lie beside it.
        for key, value in content.items():
            if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
                content[key] = str(config.path.parent / value)
        arguments = [_inline(content)] if content else []
    arguments += [_inline(section) for section in _sections(config, meant)]
    return [word for argument in arguments for word in ("--config", argument)]


def _sections(config: Config, meant: set[str]) -> list[dict[str, Any]]:
    """The parts below a configuration's ``for`` that hold for this run's agent and task."""
    sections = config.content.get("for") or {}
    known = {*config_names(FOLDERS["agent"]), *config_names("tasks")}
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise SettingError("for", f"{sections!r} in {config.path}", "Give agents or tasks, each with its settings.")
    for words in sections:
        if unknown := sorted(set(str(words).split()) - known):
            raise SettingError("for", f"{unknown[0]} in {config.path}", f"Name some of {', '.join(sorted(known))}.")
    return [section for words, section in sections.items() if meant & set(words.split())]


def _inline(content: dict[str, Any]) -> str:
    """Settings as the parser takes them in place of a file's name."""
    return yaml.safe_dump(content, default_flow_style=True, width=math.inf).strip()


def lineage(path: Path, below: tuple[Path, ...] = ()) -> list[Config]:
    """A configuration and what it builds on, the furthest first.

    Args:
        path: the configuration.
        below: those that led to it.

    Raises:
        SettingError: a file that cannot be read, or a circle.
    """
    if path in below:
        raise SettingError("extends", f"a circle through {path}", "Remove one of the links.")
    from moto_pl.agents.earlier import check_settings  # here: a list of verbs does not wait for torch

    content = _read_yaml(path) or {}
    if not isinstance(content, dict):
        raise SettingError("--config", f"{path}, which holds no settings", "Give settings by their names.")
    check_settings(content, path)
    parents = content.get("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) and "\0" not in parent for parent in parents):
        raise SettingError("extends", f"{parents!r} in {path}", "Give a path, or a list of them.")
    found: list[Config] = []
    for parent in parents:
        found += lineage((path.parent / parent).resolve(), (*below, path))
    return [*found, Config(path, content)]


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(read_text(path, MAX_YAML))
    except OSError as error:
        known = [other for other in config_names("").values() if other.name == path.name]
        guess = (
            f" Did you mean {' or '.join(map(str, known))}?" if isinstance(error, FileNotFoundError) and known else ""
        )
        raise SettingError("--config", path, f"{error.strerror}.{guess}") from None
    except ValueError as error:
        raise SettingError("--config", f"{path}, which cannot be read: {error}", "Correct it.") from None
