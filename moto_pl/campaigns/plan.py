"""A campaign's file: what it may say, and the runs that it comes to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moto_pl.errors import SettingError, did_you_mean
from moto_pl.reading import MAX_YAML, Loader, parse_yaml, read_text
from moto_pl.training.configs import config_path

#: The name of the one setting of a campaign that has no ``settings``.
DEFAULT = "default"
#: What the campaign itself says to ``moto fit``, or what would break a resume.
RESERVED = {
    "--config": "Name the configuration without --config, as an item of the list.",
    "--seed_everything": "Give seeds.",
    "--trainer.default_root_dir": "Give runs; each run has a directory of its own below it.",
    "--trust": "Give it to moto campaign.",
    "--ckpt_path": "Leave it out: a run goes on from its own newest checkpoint.",
    "--print_config": "Leave it out, and use moto campaign FILE --dry_run.",
    "--help": "Leave it out.",
}
# Also the names of directories, and moto compare takes NAME=DIRECTORY.
_NAME = re.compile(r"[A-Za-z0-9_][\w .,+-]*(?<! )")


@dataclass(frozen=True)
class Run:
    """One cell of the grid with one seed: one ``moto fit``.

    Attributes:
        task: its name in the campaign, as are ``agent`` and ``setting``.
        seed: ``seed_everything``.
        directory: ``trainer.default_root_dir``.
        arguments: of ``moto fit``, those two among them.
    """

    task: str
    agent: str
    setting: str
    seed: int
    directory: Path
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """``task/agent/setting/seed0``: its place below the campaign's ``runs``."""
        return f"{self.task}/{self.agent}/{self.setting}/seed{self.seed}"

    @property
    def cell(self) -> tuple[str, str, str]:
        """What it shares with its other seeds."""
        return self.task, self.agent, self.setting


@dataclass(frozen=True)
class Campaign:
    """A campaign's file, read.

    Attributes:
        path: the file.
        text: its content.
        name: of the campaign, and of its directory below ``results``.
        base: arguments of every run.
        tasks: each one's arguments, by name; likewise ``agents`` and ``settings``.
        seeds: of every cell.
        slots: runs at a time.
        threads: of a run.
        nice: added to a run's niceness.
        retries: how often a run that ended badly is taken up again.
        timeout: minutes that one attempt may take; None: as long as it likes.
        runs: directory of the runs.
        results: directory of the campaigns' results.
        slurm: what submitit is told beside that.
        ray: what Ray is told beside that.
        trusted: packages whose code configurations may name.
    """

    path: Path
    text: str
    name: str
    tasks: dict[str, tuple[str, ...]]
    agents: dict[str, tuple[str, ...]]
    runs: Path
    base: tuple[str, ...] = ()
    settings: dict[str, tuple[str, ...]] = field(default_factory=lambda: {DEFAULT: ()})
    seeds: tuple[int, ...] = (0,)
    slots: int = 1
    threads: int = 1
    nice: int = 0
    retries: int = 2
    timeout: float | None = None
    results: Path = Path("results")
    slurm: dict[str, Any] = field(default_factory=dict)
    ray: dict[str, Any] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()

    @property
    def results_dir(self) -> Path:
        """Where this campaign's results go."""
        return self.results / self.name

    def parts(self, task: str, agent: str, setting: str) -> dict[str, tuple[str, ...]]:
        """The arguments of a cell by their place in the file, in the order in which later ones override."""
        return {
            "base": self.base,
            f"tasks.{task}": self.tasks[task],
            f"agents.{agent}": self.agents[agent],
            f"settings.{setting}": self.settings[setting],
        }

    def grid(self) -> list[Run]:
        """All runs; every cell has its first seed before any has its second."""
        return [
            Run(task, agent, setting, seed, directory, self._arguments(task, agent, setting, seed, directory))
            for seed in self.seeds
            for task in self.tasks
            for agent in self.agents
            for setting in self.settings
            for directory in (self.runs / task / agent / setting / f"seed{seed}",)
        ]

    def _arguments(self, task: str, agent: str, setting: str, seed: int, directory: Path) -> tuple[str, ...]:
        given = [argument for part in self.parts(task, agent, setting).values() for argument in part]
        trust = [word for package in self.trusted for word in ("--trust", package)]
        return (*trust, *given, f"--trainer.default_root_dir={directory}", f"--seed_everything={seed}")


def read_campaign(path: Path, trust: Sequence[str] = ()) -> Campaign:
    """Reads a campaign's file.

    Args:
        path: the file.
        trust: packages whose code it, and the configurations that it names, may name.

    Raises:
        SettingError: a file that cannot be read, an unknown key, or a value of another kind.
    """
    text, content = _read(path)
    reader = _Reader(path)
    name = reader.name("name", content.get("name", path.stem))
    numbers: dict[str, Any] = {
        key: reader.whole(key, content[key], least, most)
        for key, least, most in (("slots", 1, None), ("threads", 1, None), ("nice", 0, 19), ("retries", 0, None))
        if key in content
    }
    axes: dict[str, Any] = {key: reader.axis(key, content.get(key)) for key in ("tasks", "agents")}
    if "settings" in content:
        axes["settings"] = reader.axis("settings", content["settings"])
    return Campaign(
        path=path,
        text=text,
        name=name,
        base=tuple(reader.arguments("base", content.get("base"))),
        seeds=reader.seeds(content.get("seeds", [0])),
        timeout=reader.minutes("timeout", content.get("timeout")),
        runs=reader.directory("runs", content.get("runs", f"runs/{name}")),
        results=reader.directory("results", content.get("results", "results")),
        slurm=reader.mapping("slurm", content.get("slurm")),
        ray=reader.mapping("ray", content.get("ray")),
        trusted=tuple(trust),
        **numbers,
        **axes,
    )


#: The keys of a campaign's file.
KEYS = (
    *("name", "base", "tasks", "agents", "settings", "seeds", "slots", "threads", "nice", "retries", "timeout"),
    *("runs", "results", "slurm", "ray"),
)


class _Loader(Loader):
    """Refuses a key that stands twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = read_text(path, MAX_YAML)
        content = parse_yaml(text, _Loader)
    except OSError as error:
        raise SettingError("file", path, f"{error.strerror}. Give a campaign's file.") from None
    except ValueError as error:
        raise SettingError("file", f"{path}, which cannot be read: {error}", "Correct it.") from None
    if not isinstance(content, dict):
        raise SettingError("file", f"{path}, which has no keys", f"Give {', '.join(KEYS)}.")
    for key in content:
        if key not in KEYS:
            guess = did_you_mean(str(key), KEYS, n=1)
            raise SettingError(str(key), f"an unknown key in {path}", f"{guess}A campaign has {', '.join(KEYS)}.")
    return text, content


@dataclass(frozen=True)
class _Reader:
    """The values of a campaign's file, each checked; ``place`` is where it stands."""

    path: Path

    def refusal(self, place: str, found: object, fix: str) -> SettingError:
        return SettingError(place, f"{'nothing' if found is None else repr(found)} in {self.path}", fix)

    def name(self, place: str, value: Any) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            fix = "Give a name of letters, digits, spaces and . , + - _, in quotes where YAML sees a number."
            raise self.refusal(place, value, fix)
        return value

    def whole(self, place: str, value: Any, least: int, most: int | None = None) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= (most or value):
            bounds = f"from {least} to {most}" if most else f", {least} or more"
            raise self.refusal(place, value, f"Give a whole number{' ' if most else ''}{bounds}.")
        return value

    def minutes(self, place: str, value: Any) -> float | None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise self.refusal(place, value, "Give minutes, above 0, or null.")
        return value

    def seeds(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            raise self.refusal("seeds", value, "Give a list of whole numbers, such as [0, 1, 2].")
        seeds = tuple(self.whole(f"seeds[{i}]", seed, 0) for i, seed in enumerate(value))
        if len(set(seeds)) < len(seeds):
            raise self.refusal("seeds", value, "Give each seed once.")
        return seeds

    def directory(self, place: str, value: Any) -> Path:
        if not isinstance(value, str) or not value:
            raise self.refusal(place, value, "Give a directory.")
        return Path(value)

    def mapping(self, place: str, value: Any) -> dict[str, Any]:
        if value is not None and not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
            raise self.refusal(place, value, "Give names and values.")
        return dict(value or {})

    def axis(self, place: str, value: Any) -> dict[str, tuple[str, ...]]:
        if not isinstance(value, dict) or not value:
            fix = f"Give {place} by name, each with its configurations and arguments, or [] for none."
            raise self.refusal(place, value, fix)
        return {
            self.name(f"{place}.{name}", name): tuple(self.arguments(f"{place}.{name}", entry))
            for name, entry in value.items()
        }

    def arguments(self, place: str, entry: Any) -> Iterator[str]:
        """What a configuration's name, an argument, settings, or a list of these come to for ``moto fit``."""
        if entry is None:
            return
        if isinstance(entry, str):
            yield from self._word(place, entry)
        elif isinstance(entry, dict):
            for name, value in flatten(entry).items():
                word = value if isinstance(value, str) else json.dumps(value, default=str)
                yield from self._word(f"{place}.{name}", f"--{name}={word}")
        elif isinstance(entry, list) and not any(isinstance(item, list) for item in entry):
            for index, item in enumerate(entry):
                yield from self.arguments(f"{place}[{index}]", item)
        else:
            fix = "Give the name or path of a configuration, --setting=value, settings by name, or a list of these."
            raise self.refusal(place, entry, fix)

    def _word(self, place: str, word: str) -> Iterator[str]:
        if not word.startswith("-"):
            yield from ("--config", str(self._config(place, word)))
            return
        name, given, value = word.partition("=")
        if name in RESERVED or name in ("-c", "-h"):
            raise self.refusal(place, word, RESERVED.get(name, "Leave it out."))
        if not given or not name.startswith("--"):
            raise self.refusal(place, word, "Write --setting=value.")
        yield word

    def _config(self, place: str, name: str) -> Path:
        if name.endswith((".yaml", ".yml")):
            path = Path(os.path.normpath(self.path.parent / name))
            if not path.is_file():
                raise self.refusal(place, name, f"There is no {path}: give a path from the campaign's own directory.")
            return path
        try:
            return config_path(name)
        except SettingError as error:
            fix = f"{error.fix} A path ends in .yaml, and a setting begins with --."
            raise self.refusal(place, name, fix) from None


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, name) if isinstance(value, Mapping) and value else {name: value}
    return flat
