"""A run's evaluations on a page: tables, learning curves, and which seeds fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from moto_pl.evaluations import EVALUATION_SEEDS
from moto_pl.report.charts import METRIC_LABELS, Outcome, interval_chart, seeds_chart
from moto_pl.report.comparison import Metric, values_of
from moto_pl.report.html import figure_block, number
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


def results_section(record: RunRecord) -> str:
    """Tables of all evaluations, and which seeds failed how often."""
    tables = []
    for stage, text in (("eval", "Evaluation seeds"), ("test", "Test seeds")):
        of = [e for e in record.evaluations if e.stage == stage]
        if of:
            tables.append(_table_of_evaluations(text, of))
            tables += _table_of_objects(text, of)
    if not tables:
        return "<p>Nothing has been evaluated yet.</p>"
    return (
        "".join(tables)
        + "<p class='small'>In brackets: 95% intervals, Wilson's for the success rate, bootstrap of the mean for the "
        "return. They say how well these episodes pin down this one policy; another training seed may differ by more. "
        "An episode succeeds if the environment reports success at any of its steps. The last step is the one that "
        "terminated the episode, or at which it was cut off; an environment that terminates at success has one step in "
        "success at most. A dash: recorded by a version that did not count it.</p>"
        + _seeds([e for e in record.evaluations if e.stage == "eval"])
    )


def evaluation_curves(record: RunRecord) -> list[str]:
    """A chart a metric, over gradient steps; none for what was not recorded."""
    charts = []
    for measure in MEASURES:
        of = [e for e in record.evaluations if e.stage == "eval" and values_of(e, measure.metric)]
        if of:
            charts.append(_chart(measure, of, record.offline_steps))
    return charts


def _table_of_evaluations(caption: str, evaluations: Sequence[Evaluation]) -> str:
    rows = []
    for e in evaluations:
        rate, of_rate, of_return = e.successes / e.episodes, wilson_interval(e.successes, e.episodes), "one episode"
        if e.episodes > 1:
            between = bootstrap_interval(e.returns)
            of_return = f"{number(between.low)}, {number(between.high)}"
        rows.append(
            f"<tr><th scope='row'>{escape(PHASES.get(e.phase, e.phase))}</th>"
            f"<td>{e.step:,}</td><td>{e.online_episodes:,}</td><td><b>{e.successes}</b> of {e.episodes}</td>"
            f"<td><div class='rate'>{_bar(rate, of_rate)}"
            f"<span>{rate:.0%} <small>[{of_rate.low:.0%}, {of_rate.high:.0%}]</small></span></div></td>"
            f"<td>{f'<b>{sum(e.success_last)}</b> of {e.episodes}' if e.success_last else '-'}</td>"
            f"<td>{number(float(np.mean(e.success_steps))) if e.success_steps else '-'}</td>"
            f"<td>{number(float(np.mean(e.returns)))} <small>[{of_return}]</small></td>"
            f"<td>{np.mean(e.length):.0f}</td></tr>"
        )
    columns = (
        *("Policy", "Gradient steps", "Online episodes", "Success", "Success rate"),
        *("At the last step", "Steps in success", "Mean return", "Mean length"),
    )
    head = "".join(f"<th scope='col'>{text}</th>" for text in columns)
    return (
        f"<div class='scroll'><table class='results'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _table_of_objects(caption: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """How many of the task's objects came into place, and each one's rate; nothing for a task without objects."""
    of = [e for e in evaluations if e.objects and e.objects == evaluations[-1].objects]
    if not of:
        return []
    rows = []
    for e in of:
        completed = np.array(e.completed, float)
        numbers = completed.sum(axis=1)
        interval = "one episode"
        if e.episodes > 1:
            between = bootstrap_interval(numbers.tolist())
            interval = f"{number(between.low)}, {number(between.high)}"
        cells = "".join(f"<td>{rate:.0%}</td>" for rate in completed.mean(axis=0))
        rows.append(
            f"<tr><th scope='row'>{escape(PHASES.get(e.phase, e.phase))}</th><td>{e.step:,}</td>"
            f"<td><b>{number(float(numbers.mean()))}</b> of {len(e.objects)} <small>[{interval}]</small></td>"
            f"{cells}</tr>"
        )
    head = "".join(
        f"<th scope='col'>{escape(text)}</th>"
        for text in ("Policy", "Gradient steps", "Objects completed", *of[-1].objects)
    )
    return [
        f"<div class='scroll'><table class='results'><caption>{caption}: objects in place at any step</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    ]


def _bar(rate: float, interval: Interval) -> str:
    """The interval and its point on a line from 0 to 1; the figures beside it say the same."""
    low, high, at = (f"{100 * value:.1f}" for value in (*interval, rate))
    return (
        "<svg class='bar' viewBox='0 0 100 12' aria-hidden='true'><path class='rail' d='M0 6H100'/>"
        f"<path class='range' d='M{low} 6H{high}'/><circle cx='{at}' cy='6' r='4'/></svg>"
    )


# Curves.


def _chart(measure: Measure, evaluations: Sequence[Evaluation], offline_steps: int | None) -> str:
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
    return figure_block(measure.title, svg, caption, f"{measure.title} against gradient steps: {said}.")


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


def _seeds(evaluations: Sequence[Evaluation]) -> str:
    """A row a seed, a column an evaluation; nothing where seeds were not recorded."""
    of = [(e.step, outcomes(e)) for e in evaluations if e.seed]
    if not of:
        return ""
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
    return f"<div class='seeds'>{figure_block('Which seeds fail', svg, caption, said)}</div>"
