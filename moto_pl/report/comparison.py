"""Methods against each other: which runs are seeds of one method, and what each method reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from moto_pl.errors import SettingError
from moto_pl.reading import flatten
from moto_pl.report.records import Evaluation, RunRecord, read_run
from moto_pl.report.statistics import Interval, bootstrap_interval, interquartile_mean

Metric = Literal["success", "success_last", "success_steps", "objects", "return"]

#: Metrics that stand beside the compared one: a policy may pass through success without staying there.
SUCCESS: tuple[Metric, ...] = ("success", "success_last", "success_steps")

#: Settings of the data that make evaluations comparable: runs must agree on them.
SAME_DATA = ("env", "env_options", "eval_episodes")
#: Settings that say how much a method was given, with what runs had that do not name them: runs may differ in them, but
#: a reader must know.
BUDGET = {
    **{"dataset": None, "pretrain": "joint", "model_steps": 0, "offline_steps": None, "online_steps": None},
    **{"updates_per_episode": None, "num_envs": None},
}
_NOT_THE_METHODS = ("seed", "ops")


class Point(NamedTuple):
    """One moment of a method: all its seeds together.

    Attributes:
        step: gradient steps taken.
        online_episodes: collected before it.
        values: of each seed, in the runs' order.
    """

    step: int
    online_episodes: int
    values: list[float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> Interval:
        """95% bootstrap interval of the mean over the seeds."""
        return bootstrap_interval(self.values)

    @property
    def iqm(self) -> float:
        """Inter-quartile mean over the seeds."""
        return float(interquartile_mean(self.values))

    @property
    def iqm_interval(self) -> Interval:
        """95% bootstrap interval of the inter-quartile mean."""
        return bootstrap_interval(self.values, statistic=interquartile_mean)


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone.

    Attributes:
        name: agent, and the settings in which it differs from another method of the same agent.
        runs: its seeds.
        offline: points of the offline phase, by gradient step; the last is the end of pre-training.
        online: points from the end of pre-training on, by online episode.
        success: what its seeds' latest common evaluation says of each metric of :data:`SUCCESS`; without those that
            its records do not hold.
    """

    name: str
    runs: list[RunRecord]
    offline: list[Point]
    online: list[Point]
    success: dict[Metric, Point]

    @property
    def last(self) -> Point:
        """The latest evaluation that all seeds have."""
        return (self.online or self.offline)[-1]

    @property
    def pretrained(self) -> Point | None:
        """The end of pre-training; None for a method without an offline phase, or where nothing was evaluated then."""
        offline = self.runs[0].offline_steps
        return next((point for point in self.offline if offline and point.step == offline), None)


@dataclass(frozen=True)
class Comparison:
    """Methods on one task.

    Attributes:
        env: the environment's id.
        metric: what is compared.
        most: the metric's largest value; None where it has none.
        methods: by their last mean, the best first.
        notes: what a reader must know about how they differ, each as a sentence.
    """

    env: str
    metric: Metric
    most: float | None
    methods: list[Method]
    notes: list[str]


def compare_runs(named: Sequence[tuple[str | None, Path]], metric: Metric | None = None) -> Comparison:
    """Reads runs and groups them.

    Args:
        named: a method's name, or None to find it from the settings, and a run's directory.
        metric: None takes ``objects`` where the task has several, else ``success``.

    Raises:
        SettingError: where a directory holds no run, two runs are not of the same task, or a run was never evaluated.
    """
    runs = [(name, read_run(path)) for name, path in named]
    _check(runs)
    records = [run for _, run in runs]
    metric = metric or ("objects" if all(values_of(_evaluations(run)[-1], "objects") for run in records) else "success")
    without = [run for run in records if not values_of(_evaluations(run)[-1], metric)]
    if without and metric == "objects":
        raise SettingError("--metric", "objects", "These runs' task has no objects: use success or return.")
    if without:
        found = f"{metric}, which {without[0].root} was evaluated without, by an older version"
        raise SettingError("--metric", found, "Use success, objects or return.")
    groups = _groups(runs)
    notes = _notes(records, groups)
    methods = [_method(name, group, metric, notes) for name, group in groups.items()]
    methods.sort(key=lambda method: -method.last.mean)
    objects = float(len(_evaluations(records[0])[-1].objects))
    most = {"success": 1.0, "success_last": 1.0, "objects": objects}.get(metric)
    return Comparison(str(records[0].setting("data", "env")), metric, most, methods, notes)


def values_of(evaluation: Evaluation, metric: Metric) -> Sequence[float]:
    """A metric of each of an evaluation's episodes; empty where it was not recorded."""
    if metric == "success":
        return evaluation.success
    if metric == "success_last":
        return evaluation.success_last
    if metric == "success_steps":
        return evaluation.success_steps
    if metric == "return":
        return evaluation.returns
    return [sum(row) for row in evaluation.completed]


def _evaluations(run: RunRecord) -> list[Evaluation]:
    return [evaluation for evaluation in run.evaluations if evaluation.stage == "eval"]


def _check(runs: Sequence[tuple[str | None, RunRecord]]) -> None:
    if not runs:
        raise SettingError("runs", "none", "Give the directories of runs.")
    seen: dict[Path, Path] = {}
    first = runs[0][1]
    for _, run in runs:
        where = run.root.resolve()
        if where in seen:
            raise SettingError("runs", f"{run.root} twice", "Name each run once.")
        seen[where] = run.root
        if not run.config:
            raise SettingError("runs", f"{run.root}, without settings (config.yaml)", "Leave it out.")
        if not _evaluations(run):
            raise SettingError("runs", f"{run.root}, which was never evaluated", "Wait for it, or leave it out.")
        for name in SAME_DATA:
            theirs, ours = run.setting("data", name), first.setting("data", name)
            if theirs != ours:
                found = f"data.{name} {theirs} in {run.root}, {ours} in {first.root}"
                raise SettingError("runs", found, "Compare runs of one task and one evaluation.")


def _settings(run: RunRecord) -> dict[str, Any]:
    """A method's settings by dotted name, the seed and what changes no result left out."""
    flat = flatten(run.setting("model", "init_args") or {})
    return {name: value for name, value in flat.items() if name not in _NOT_THE_METHODS}


def _groups(runs: Sequence[tuple[str | None, RunRecord]]) -> dict[str, list[RunRecord]]:
    """Runs by method. Runs of one agent with the same settings are seeds of one method.

    Of an agent's variants the one with most runs has the agent's name; others add the settings that they differ in.
    """
    groups: dict[str, list[RunRecord]] = {}
    by_agent: dict[str, list[tuple[dict[str, Any], list[RunRecord]]]] = {}
    for name, run in runs:
        if name is not None:
            groups.setdefault(name, []).append(run)
            continue
        agent = str(run.setting("model", "class_path") or "unknown agent").rsplit(".", 1)[-1]
        offline = run.offline_steps
        agent += " from scratch" if offline == 0 else ""
        variants = by_agent.setdefault(agent, [])
        settings = _settings(run)
        same = [group for known, group in variants if known == settings]
        if same:
            same[0].append(run)
        else:
            variants.append((settings, [run]))
    for agent, variants in by_agent.items():
        usual = max(variants, key=lambda variant: len(variant[1]))[0]
        for settings, group in variants:
            differing = [
                f"{name.rsplit('.', 1)[-1]} {settings.get(name)}"
                for name in sorted(settings.keys() | usual.keys())
                if settings.get(name) != usual.get(name)
            ]
            groups.setdefault(", ".join([agent, *differing]), []).extend(group)
    return groups


def _method(name: str, runs: list[RunRecord], metric: Metric, notes: list[str]) -> Method:
    tables = [{evaluation.step: evaluation for evaluation in _evaluations(run)} for run in runs]

    def point(step: int, metric: Metric) -> Point | None:
        found = [values_of(table[step], metric) for table in tables]
        if not all(found):
            return None
        return Point(step, tables[0][step].online_episodes, [float(np.mean(values)) for values in found])

    shared = sorted(set.intersection(*(set(table) for table in tables)))
    points = [found for step in shared if (found := point(step, metric)) is not None]
    if not points:
        raise SettingError("runs", f"{name}: no evaluation after the same gradient step", "Compare runs of a schedule.")
    if any(len(table) > len(points) for table in tables):
        notes.append(f"{name}: only the {len(points)} evaluations that all of its seeds have are used.")
    success = {way: found for way in SUCCESS if (found := point(points[-1].step, way)) is not None}
    offline = runs[0].offline_steps or 0
    return Method(
        name,
        runs,
        [point for point in points if offline and point.step <= offline],
        [point for point in points if point.step >= offline],
        success,
    )


def _notes(records: Sequence[RunRecord], groups: dict[str, list[RunRecord]]) -> list[str]:
    notes = []
    counts = {len(group) for group in groups.values()}
    if counts == {1}:
        notes.append("One seed a method: the intervals have no width, and say nothing about other seeds.")
    elif len(counts) > 1:
        notes.append("Seeds: " + ", ".join(f"{name} {len(group)}" for name, group in groups.items()) + ".")
    for name, group in groups.items():
        seeds = [run.setting("seed_everything") for run in group]
        if len(set(map(str, seeds))) < len(seeds):
            notes.append(f"{name}: runs share a seed ({', '.join(map(str, seeds))}).")
    for setting, before in BUDGET.items():
        values = [run.setting("data", setting) for run in records]
        found = {str(before if value is None else value) for value in values}
        if len(found) > 1:
            notes.append(f"The runs differ in data.{setting}: {', '.join(sorted(found))}.")
    unfinished = [run for run in records if run.schedule is not None and run.steps < run.schedule.total_steps]
    if unfinished:
        notes.append("Not finished: " + ", ".join(str(run.root) for run in unfinished) + ".")
    return notes
