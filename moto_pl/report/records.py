"""What a run left behind: settings, evaluations, metrics, episodes and videos. A run in progress has less of it."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moto_pl.errors import SettingError
from moto_pl.evaluations import FILE, read_evaluations
from moto_pl.reading import MAX_YAML, parse_yaml, read_json, read_text
from moto_pl.schedule import Schedule

# Results of evaluations are in their own file, episode by episode.
_NOT_TRAINING = ("eval/", "test/")


def is_training_metric(column: str) -> bool:
    """Whether a column of ``metrics.csv`` is a training metric: neither a count nor an evaluation's."""
    return column not in ("step", "epoch") and not column.startswith(_NOT_TRAINING)


class Series(NamedTuple):
    """A metric over the run."""

    step: np.ndarray  # int64 [n] gradient steps taken
    value: np.ndarray  # float64 [n]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the policy.

    Attributes:
        stage: ``eval`` (evaluation seeds) or ``test`` (test seeds).
        step: gradient steps taken before it.
        phase: ``untrained``, ``offline``, ``pretrained``, ``online`` or ``final``.
        online_episodes: episodes collected before it.
        returns: of each episode.
        success: of each episode, whether any step led to success.
        length: steps of each episode.
        objects: names of the task's objects; empty where it has none.
        completed: for each episode, which of them were in place at any step.
        seed: of each episode; empty where they were not recorded.
        success_last: of each episode, whether its last step led to success: the one that terminated it or at which it
            was cut off; empty in records that were written before it was.
        success_steps: of each episode, how many steps led to success; empty likewise.
    """

    stage: str
    step: int
    phase: str
    online_episodes: int
    returns: list[float]
    success: list[bool]
    length: list[int]
    objects: tuple[str, ...] = ()
    completed: tuple[tuple[bool, ...], ...] = ()
    seed: tuple[int, ...] = ()
    success_last: tuple[bool, ...] = ()
    success_steps: tuple[int, ...] = ()

    @property
    def episodes(self) -> int:
        """Episodes n."""
        return len(self.success)

    @property
    def successes(self) -> int:
        """Episodes that succeeded, k of n."""
        return sum(self.success)

    @property
    def at_last(self) -> int | None:
        """Episodes that ended in success; None where that was not recorded."""
        return sum(self.success_last) if self.success_last else None

    @property
    def steps_in_success(self) -> float | None:
        """Mean number of steps in success; None where they were not recorded."""
        return float(np.mean(self.success_steps)) if self.success_steps else None

    @property
    def mean_return(self) -> float:
        """Over the episodes."""
        return float(np.mean(self.returns))

    @property
    def mean_length(self) -> float:
        """Over the episodes, in steps."""
        return float(np.mean(self.length))

    def cells(self) -> tuple[str, str, str]:
        """Success at the last step, steps in success and return, for a table; a dash for what was not recorded."""
        return (
            "-" if self.at_last is None else f"{self.at_last} of {self.episodes}",
            "-" if self.steps_in_success is None else f"{self.steps_in_success:.1f}",
            f"{self.mean_return:.1f}",
        )


@dataclass(frozen=True)
class RunRecord:
    """A run, read.

    Attributes:
        root: its directory.
        config: ``config.yaml``, parsed; empty where there is none.
        config_text: the same as text.
        schedule: its schedule, where the settings tell.
        dataset: ``replay/dataset.json``.
        evaluations: by stage and step.
        metrics: training metrics by name.
        missing: what is absent or unreadable, each as a sentence.
    """

    root: Path
    config: dict[str, Any]
    config_text: str
    schedule: Schedule | None
    dataset: dict[str, Any]
    evaluations: list[Evaluation]
    metrics: dict[str, Series]
    missing: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Gradient steps that are known to be taken."""
        logged = [int(series.step.max()) for series in self.metrics.values()]
        return max([*logged, *(evaluation.step for evaluation in self.evaluations)], default=0)

    @property
    def offline_steps(self) -> int | None:
        """Gradient steps of the offline phase, those of the world model alone among them; None where not known."""
        if self.schedule is not None:
            return self.schedule.pretraining_steps
        return next((e.step for e in self.evaluations if e.phase == "pretrained"), None)

    def setting(self, *path: str) -> Any:
        """A setting, as in ``setting("data", "env")``; None where it is absent."""
        value: Any = self.config
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def read_run(root: Path) -> RunRecord:
    """Reads a run's directory.

    Args:
        root: the run's ``trainer.default_root_dir``.

    Raises:
        SettingError: where it is no directory of a run.
    """
    if not root.is_dir():
        raise SettingError("run", f"no directory {root}", "Give the directory of a run (trainer.default_root_dir).")
    if not any((root / name).exists() for name in ("config.yaml", FILE, "csv", "checkpoints")):
        raise SettingError("run", f"{root}, which holds no run", "Give the directory that moto fit wrote its run to.")
    missing: list[str] = []
    config, text = _read_config(root / "config.yaml", missing)
    schedule = _schedule(config.get("data"))
    metrics = _read_metrics(root / "csv", missing)
    evaluations = _read_evaluations(root, schedule, metrics, config, missing)
    dataset = _read_dataset(root / "replay" / "dataset.json", missing)
    return RunRecord(root, config, text, schedule, dataset, evaluations, metrics, missing)


def _read_config(path: Path, missing: list[str]) -> tuple[dict[str, Any], str]:
    if not path.exists():
        missing.append("config.yaml is not there: agent, environment and settings are unknown.")
        return {}, ""
    text, config = "", None
    try:
        text = read_text(path, MAX_YAML, errors="replace")
        config = parse_yaml(text)
    except (OSError, ValueError):
        pass
    if not isinstance(config, dict):
        missing.append("config.yaml cannot be read as settings; it is shown as it is.")
        return {}, text
    return config, text


def _schedule(data: Any) -> Schedule | None:
    try:
        return Schedule.of(data)
    except (AttributeError, KeyError, TypeError, ValueError):  # SettingError is a ValueError
        return None


def _read_dataset(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        dataset: dict[str, Any] = read_json(path, dict)
        return dataset
    except FileNotFoundError:
        missing.append("replay/dataset.json is not there: no demonstrations have been taken in.")
    except (OSError, ValueError):
        missing.append("replay/dataset.json cannot be read.")
    return {}


def _read_evaluations(
    root: Path, schedule: Schedule | None, metrics: dict[str, Series], config: dict[str, Any], missing: list[str]
) -> list[Evaluation]:
    if not (root / FILE).exists():
        missing.append(f"{FILE} is not there: nothing has been evaluated.")
        return []
    try:
        records = read_evaluations(root)
    except (OSError, ValueError):
        missing.append(f"{FILE} cannot be read.")
        return []
    rounds = metrics["online/return"].step if "online/return" in metrics else np.zeros(0)
    data = config.get("data")
    envs = data.get("num_envs") if isinstance(data, dict) else None
    evaluations = []
    for record in records:
        found = _evaluation(record)
        if found is None:
            missing.append(f"A record of {FILE} is not whole and was left out.")
            continue
        # A run that was made longer has a later end than its records say.
        phase = schedule.phase(found.step) if schedule is not None else found.phase
        # `moto validate` does not know how many episodes came before; the rounds that were logged do.
        logged = int((rounds <= found.step).sum()) * (envs if isinstance(envs, int) else 1)
        evaluations.append(replace(found, phase=phase, online_episodes=max(found.online_episodes, logged)))
    return evaluations


def _evaluation(record: dict[str, Any]) -> Evaluation | None:
    """A record, whose types are checked; None where it is not whole. What older ones do not have stays empty."""
    try:
        found = Evaluation(
            stage=record["stage"],
            step=record["step"],
            phase=record["phase"],
            online_episodes=record["online_episodes"],
            returns=[float(value) for value in record["return"]],
            success=record["success"],
            length=record["length"],
            objects=tuple(record.get("objects", ())),
            completed=tuple(map(tuple, record.get("completed", ()))),
            seed=tuple(record.get("seed", ())),
            success_last=tuple(record.get("success_last", ())),
            success_steps=tuple(record.get("success_steps", ())),
        )
    except KeyError:
        return None
    count = found.episodes
    added = (found.seed, found.success_last, found.success_steps)
    whole = count and len(found.returns) == len(found.length) == count and np.isfinite(found.returns).all()
    if not whole or any(len(values) not in (0, count) for values in added):
        return None
    if len(found.completed) != count or any(len(row) != len(found.objects) for row in found.completed):
        return replace(found, objects=(), completed=())
    return found


def _read_metrics(directory: Path, missing: list[str]) -> dict[str, Series]:
    """The metrics of all versions: each resume opens one, and what it trains again replaces what was there."""
    versions = [path for path in directory.glob("version_*") if re.fullmatch(r"version_\d+", path.name)]
    rows: list[tuple[int, dict[str, float]]] = []
    for path in sorted(versions, key=lambda path: int(path.name.removeprefix("version_"))):
        new = _read_rows(path / "metrics.csv")
        if new:  # `moto validate` and `moto test` open versions too, which train nothing and replace nothing
            first = min(step for step, _ in new)
            rows = [row for row in rows if row[0] < first] + new
    if not rows:
        missing.append("csv/version_*/metrics.csv holds no training metrics yet: there are no training curves.")
    points: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for name, value in row.items():
            # Logged under the step's index, counted from 0: one more step is taken by then.
            points.setdefault(name, []).append((step + 1, value))
    return {
        name: Series(np.array([step for step, _ in of]), np.array([value for _, value in of]))
        for name, of in sorted(points.items())
    }


def _read_rows(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The training rows of one file; a last line that is still being written is left out."""
    try:
        text = read_text(path, errors="replace") if path.exists() else ""
    except (OSError, ValueError):
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = []
    reader = csv.DictReader(whole.splitlines())
    while (row := _row(reader)) is not None:
        step = _number(row.get("step"))
        values = {
            name: number
            for name, text in row.items()
            if name is not None and is_training_metric(name)
            if (number := _number(text)) is not None
        }
        if step is not None and 0 <= step < 2**53 and values:
            rows.append((int(step), values))
    return rows


def _row(reader: csv.DictReader[str]) -> dict[str, str] | None:
    """The next row; None at the end, and where a field is larger than the module reads."""
    try:
        return next(reader, None)
    except csv.Error:
        return None


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
