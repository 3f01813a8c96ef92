"""Every run of a campaign, asked of ``moto fit``'s own parser before any of them starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import yaml

from moto_pl.campaigns.plan import Campaign, Run, flatten
from moto_pl.datasets.minari_io import buildable_names, locate, short_name
from moto_pl.envs import list_envs, unknown_name
from moto_pl.errors import SettingError
from moto_pl.reading import MAX_YAML, parse_yaml, read_text
from moto_pl.training.cli import MotoCLI
from moto_pl.training.configs import config_path, expand_configs
from moto_pl.training.datamodule import OfflineToOnlineDataModule
from moto_pl.training.launch import one_line_errors
from moto_pl.trust import check_classes, check_environment, split_trust

#: Settings that change nothing about what a run comes to: a finished run may have had others.
_NO_MATTER = ("seed", "ops", "env_workers", "worker_timeout_s", "prefetch", "residency", "replay_limit_gb")


@dataclass(frozen=True)
class Settings:
    """What a campaign has to know of a run.

    Attributes:
        total_steps: gradient steps of the whole run.
        evaluates: whether the run ends with an evaluation.
        build: the dataset that it builds where it is missing; None: it builds none.
        model_and_data: its settings by dotted name, as ``config.yaml`` will hold them.
    """

    total_steps: int
    evaluates: bool
    build: str | None
    model_and_data: dict[str, Any]


class _Parser(MotoCLI):
    """Parses alone: nothing is seeded, made or run."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class Checker:
    """``moto fit``'s parser, asked often."""

    def __init__(self) -> None:
        with one_line_errors("fit"):
            self._cli = _Parser.run(["fit", "--config", str(config_path("debug"))])

    def settings(self, arguments: Sequence[str]) -> Settings:
        """What ``moto fit`` makes of its arguments.

        Raises:
            SettingError: what it would refuse, as far as that does not take data.
        """
        try:
            with one_line_errors("fit"):
                config = self._cli.parser.parse_args(expand_configs(["fit", *split_trust(arguments)[1]]))
                check_classes(config)
                made = self._cli.parser.instantiate_classes(config)["fit"]
        except SettingError as error:
            raise SettingError(error.setting, _innermost(str(error.found)), error.fix) from None
        data: OfflineToOnlineDataModule = made["data"]
        _check_env(data.collecting.env)
        text = self._cli._parser("fit").dump(config["fit"], skip_unset=False)
        kept = {name: value for name, value in yaml.safe_load(text).items() if name in ("model", "data")}
        return Settings(data.schedule.total_steps, data.evaluation.eval_episodes > 0, _dataset(data), flatten(kept))

    def ask(self, arguments: Sequence[str]) -> Settings | SettingError:
        """What :meth:`settings` returns or raises; an error that is returned is in no other's history."""
        try:
            return self.settings(arguments)
        except SettingError as error:
            return error


def check(campaign: Campaign) -> dict[tuple[str, str, str], Settings]:
    """What the runs of a campaign are, by task, agent and setting.

    Raises:
        SettingError: what ``moto fit`` would refuse, with its place in the campaign's file.
    """
    checker = Checker()
    found: dict[tuple[str, str, str], Settings] = {}
    for run in campaign.grid():
        if run.cell in found:
            continue
        answer = checker.ask(run.arguments)
        if isinstance(answer, SettingError):
            place = _place(checker, campaign, run, str(answer))
            raise SettingError(f"{place}: {answer.setting}", answer.found, answer.fix)
        found[run.cell] = answer
    return found


def check_finished(run: Run, settings: Settings) -> None:
    """Refuses a finished run that was another: it would be taken for what the campaign now says.

    Raises:
        SettingError: a setting that differs.
    """
    try:
        content = parse_yaml(read_text(run.directory / "config.yaml", MAX_YAML))
        then = flatten({name: content[name] for name in ("model", "data")})
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingError("runs", f"{run.directory}, without its settings", "Use another directory.") from None
    now = settings.model_and_data
    # What either does not have is a default of another version.
    shared = [name for name in sorted(then.keys() & now.keys()) if name.rsplit(".", 1)[-1] not in _NO_MATTER]
    differing = [name for name in shared if then[name] != now[name]]
    if differing:
        shown = ", ".join(f"{name} {then[name]} -> {now[name]}" for name in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        fix = f"Give runs another directory, or delete {run.directory} to run it again."
        raise SettingError("runs", f"{run.directory}, finished with other settings ({shown}{more})", fix)


def _place(checker: Checker, campaign: Campaign, run: Run, said: str) -> str:
    """The part of the file after which the same is said."""
    arguments: list[str] = [word for package in campaign.trusted for word in ("--trust", package)]
    for place, part in campaign.parts(*run.cell).items():
        arguments += part
        if str(checker.ask(arguments)) == said:
            return place
    return run.name


def _check_env(env: str) -> None:
    check_environment("data.env", env)
    # "module:id" imports the module: the run itself does that.
    if ":" not in env and env not in gym.registry:
        raise unknown_name("data.env", env, list_envs())


def _dataset(data: OfflineToOnlineDataModule) -> str | None:
    """The dataset that a run will build, which must not be built twice at a time."""
    if data.dataset is None:
        return None
    if data.build_missing and short_name(data.dataset) in buildable_names():
        return str(data.build_options.get("output", data.dataset))
    locate(data.dataset)
    return None


def _innermost(text: str) -> str:
    """Of what the parser says in many lines, the one that tells, with the setting that it is about."""
    key, told = "", ""
    for line in (line.strip(" -") for line in text.splitlines()):
        if about := re.match(r'Parser key "(.*)":$', line):
            key = about[1]
        elif "Got value" in line:
            told = f"{key}: {line}"
        elif re.search(r"not accepted|has no attribute|unrecognized", line):
            told = line
    return told or " ".join(text.split())
