"""A run's evaluations on a page: tables, learning curves, and which seeds fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moto_pl.evaluations import EVALUATION_SEEDS
from moto_pl.report.charts import METRIC_LABELS, Outcome, interval_chart, seeds_chart
from moto_pl.report.comparison import Metric, values_of
from moto_pl.report.html import Chart, number
from moto_pl.report.records import Evaluation, RunRecord
from moto_pl.report.statistics import Interval, bootstrap_interval, wilson_interval

PHASES = {
    "untrained": "untrained",
    "offline": "during pre-training",
    "pretrained": "after pre-training",
    "online": "during fine-tuning",
    "final": "at the end",
}


class Measure(NamedTuple):
    """A metric of the evaluations that has a chart, with its title and caption."""

    metric: Metric
    title: str
    caption: str
    is_rate: bool = False  # of episodes: its interval is Wilson's


MEASURES = (
    Measure(
        "success",
        "Evaluation success",
        "Share of episodes in success at any step, on seeds that are never trained on; bars: Wilson 95% intervals.",
        is_rate=True,
    ),
    Measure(
        "success_last",
        "Evaluation success at the last step",
        "Share of the same episodes in success at the step that ended them; bars: Wilson 95% intervals.",
        is_rate=True,
    ),
    Measure(
        "success_steps",
        "Steps in success in evaluation",
        "Mean number of steps in success of the same episodes; bars: bootstrap 95% intervals.",
    ),
    Measure("return", "Evaluation return", "Mean over the same episodes; bars: bootstrap 95% intervals."),
    Measure(
        "objects",
        "Objects completed in evaluation",
        "Mean number of the task's objects in place at any step of an episode; bars: bootstrap 95% intervals.",
    ),
)


class EvaluationRow(NamedTuple):
    """An evaluation in its table.

    Attributes:
        policy: which one was evaluated, in words.
        of: the evaluation.
        rate_interval: Wilson's.
        return_interval: bootstrap of the mean; None for a single episode.
    """

    policy: str
    of: Evaluation
    rate_interval: Interval
    return_interval: Interval | None


class ObjectsRow(NamedTuple):
    """How many of the task's objects an evaluation brought into place, and each one's rate."""

    policy: str
    step: int
    completed: float
    interval: Interval | None
    rates: list[float]


class StageTable(NamedTuple):
    """The evaluations on one kind of seeds; ``objects`` is empty for a task without objects."""

    caption: str
    rows: list[EvaluationRow]
    objects: tuple[str, ...]
    object_rows: list[ObjectsRow]


class Results(NamedTuple):
    """Tables of all evaluations, and which seeds failed how often (None where seeds were not recorded)."""

    tables: list[StageTable]
    seeds: Chart | None


def results(record: RunRecord) -> Results:
    """What a run's evaluations say."""
    tables = []
    for stage, caption in (("eval", "Evaluation seeds"), ("test", "Test seeds")):
        of = [e for e in record.evaluations if e.stage == stage]
        if of:
            objects = of[-1].objects
            with_objects = [e for e in of if e.objects and e.objects == objects]
            rows, object_rows = [_row(e) for e in of], [_objects_row(e) for e in with_objects]
            tables.append(StageTable(caption, rows, tuple(objects), object_rows))
    return Results(tables, _seeds([e for e in record.evaluations if e.stage == "eval"]))


def staying(evaluation: Evaluation) -> str:
    """Whether the policy stayed in success; nothing where that was not recorded."""
    at_last, steps = evaluation.at_last, evaluation.steps_in_success
    if at_last is None or steps is None:
        return ""
    return f" (at the last step {at_last}; {number(steps)} steps in success an episode)"


def evaluation_curves(record: RunRecord) -> list[Chart]:
    """A chart a metric, over gradient steps; none for what was not recorded."""
    charts = []
    for measure in MEASURES:
        of = [e for e in record.evaluations if e.stage == "eval" and values_of(e, measure.metric)]
        if of:
            charts.append(_chart(measure, of, record.offline_steps))
    return charts


def _row(e: Evaluation) -> EvaluationRow:
    policy = PHASES.get(e.phase, e.phase)
    return EvaluationRow(policy, e, wilson_interval(e.successes, e.episodes), _of_mean(e.returns))


def _objects_row(e: Evaluation) -> ObjectsRow:
    completed = np.array(e.completed, float)  # [episodes, objects]
    numbers, rates = completed.sum(axis=1), completed.mean(axis=0)
    policy = PHASES.get(e.phase, e.phase)
    return ObjectsRow(policy, e.step, float(numbers.mean()), _of_mean(numbers), rates.tolist())


def _of_mean(values: Sequence[float] | np.ndarray) -> Interval | None:
    return bootstrap_interval(values) if len(values) > 1 else None


# Curves.


def _chart(measure: Measure, evaluations: Sequence[Evaluation], offline_steps: int | None) -> Chart:
    values = [np.asarray(values_of(e, measure.metric), np.float64) for e in evaluations]
    means = [float(of.mean()) for of in values]
    if measure.is_rate:
        intervals = [wilson_interval(int(of.sum()), len(of)) for of in values]
        found = [f"{int(of.sum())} of {len(of)}" for of in values]
    else:
        intervals = [bootstrap_interval(of) for of in values]
        found = [number(mean) for mean in means]
    most = float(len(evaluations[-1].objects)) if measure.metric == "objects" else 1.0 if measure.is_rate else None
    svg = interval_chart(
        [e.step for e in evaluations], means, intervals,
        "gradient steps", METRIC_LABELS[measure.metric], f"eval-{measure.metric}", offline_steps,
        None if most is None else (0, most),
    )  # fmt: skip
    counts = " or ".join(str(n) for n in sorted({len(of) for of in values}))
    # First, last, and a few between, for a sentence.
    few = np.unique(np.linspace(0, len(found) - 1, min(5, len(found))).round().astype(int))
    said = ", ".join(f"{found[i]} after {evaluations[i].step:,} steps" for i in few)
    caption = f"{measure.caption} {counts} episodes each."
    return Chart(measure.title, svg, caption, f"{measure.title} against gradient steps: {said}.")


# Which seeds fail.


def outcomes(evaluation: Evaluation) -> dict[int, Outcome]:
    """What came of each seed; empty where seeds were not recorded."""
    found: dict[int, Outcome] = {}
    for index, seed in enumerate(evaluation.seed):
        if not evaluation.success[index]:
            found[seed] = "failed"
        elif not evaluation.success_last:
            found[seed] = "success, last step not recorded"
        else:
            found[seed] = (
                "success at the last step" if evaluation.success_last[index] else "success before the last step"
            )
    return found


def _seeds(evaluations: Sequence[Evaluation]) -> Chart | None:
    """A row a seed, a column an evaluation; None where seeds were not recorded."""
    of = [(e.step, outcomes(e)) for e in evaluations if e.seed]
    if not of:
        return None
    tried, failed = Counter[int](), Counter[int]()
    for _, column in of:
        tried.update(list(column))  # the seeds alone: of a mapping it would add the values
        failed.update(seed for seed, outcome in column.items() if outcome == "failed")
    seeds = sorted(tried, key=lambda seed: (-failed[seed] / tried[seed], seed))
    base = EVALUATION_SEEDS if min(seeds) >= EVALUATION_SEEDS else 0
    svg = seeds_chart(
        [step for step, _ in of],
        [f"{seed - base}" for seed in seeds],
        [[column.get(seed) for _, column in of] for seed in seeds],
        [f"{failed[seed]} of {tried[seed]}" for seed in seeds],
        "eval-seeds",
    )
    worst = ", ".join(f"{failed[seed]} of {tried[seed]} at seed {seed - base}" for seed in seeds[:5] if failed[seed])
    never = sum(not failed[seed] for seed in seeds)
    said = f"Failed evaluations: {worst or 'none'}; {never} of {len(seeds)} seeds never failed."
    caption = (
        "The same seeds are evaluated each time: a row a seed, the one that failed most often first, with how often; a "
        "column an evaluation."
    )
    if base:
        caption += f" Seeds are counted from {base}."
    return Chart("Which seeds fail", svg, caption, said)
