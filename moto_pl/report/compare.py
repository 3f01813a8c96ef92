"""``moto compare``: methods on one task, as a table, a figure and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from moto_pl.errors import SettingError
from moto_pl.files import check_can_write
from moto_pl.report.charts import METRIC_LABELS, comparison_figure, image_bytes, inline_svg
from moto_pl.report.comparison import SUCCESS, Comparison, Method, Metric, Point, compare_runs
from moto_pl.report.html import Chart, number, render_page
from moto_pl.report.output import csv_text, write_results

NAME = "comparison"
FOOTNOTE = (
    "Means over seeds, each the mean of its evaluation episodes on seeds that are never trained on. In brackets: 95% "
    "bootstrap intervals over the seeds. IQM: inter-quartile mean, the mean of the middle half. Success, at the end: "
    "share of the episodes in success at any step, share at the last step (the one that terminated the episode or at "
    "which it was cut off), and steps in success an episode."
)


def run_compare(runs: Sequence[str], out: Path, metric: Metric | None = None) -> int:
    """Compares runs; see :func:`moto_pl.cli.compare`.

    Writes ``comparison.{html,png,svg,csv}`` and ``comparison_table.csv``.
    """
    check_can_write("--out", out)
    comparison = compare_runs([_named(run) for run in runs], metric)
    paths = write_comparison(comparison, out)
    print(text_table(comparison))
    print("\n".join(f"{path}" for path in paths))
    return 0


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Writes the files of a comparison and returns their paths."""
    figure = comparison_figure(comparison)
    view = comparison_view(comparison, figure)
    page = render_page("comparison.html", f"Comparison on {comparison.env}", view=view, verdict=verdict(comparison))
    contents = {
        f"{NAME}.html": page.encode(),
        f"{NAME}.png": image_bytes(figure, "png"),
        f"{NAME}.svg": image_bytes(figure, "svg"),
        f"{NAME}.csv": csv_text(_points(comparison)).encode(),
        f"{NAME}_table.csv": csv_text(_table(comparison)).encode(),
    }
    return write_results(contents, out)


def verdict(comparison: Comparison) -> str:
    """The best method in one line."""
    best, *others = comparison.methods
    said = f"{best.name} ends at {_with_interval(best.last)}"
    return said + (f"; next is {others[0].name} at {_with_interval(others[0].last)}." if others else ".")


def _title(comparison: Comparison) -> str:
    return METRIC_LABELS[comparison.metric].capitalize()


class ComparisonView(NamedTuple):
    """A comparison as a page shows it: a table with its columns, a chart, notes."""

    comparison: Comparison
    title: str
    columns: tuple[str, ...]
    success: tuple[Metric, ...]
    footnote: str
    chart: Chart


def comparison_view(comparison: Comparison, figure: Figure) -> ComparisonView:
    """What a page shows of a comparison; ``figure`` is :func:`comparison_figure`'s."""
    title = _title(comparison)
    said = "; ".join(f"{method.name} {_with_interval(method.last)}" for method in comparison.methods)
    chart = Chart(
        title,
        inline_svg(figure, NAME),
        "A line a method, the mean of its seeds; bands are 95% bootstrap intervals over the seeds.",
        f"{title} at the end: {said}.",
    )
    return ComparisonView(comparison, title, _COLUMNS, SUCCESS, FOOTNOTE, chart)


_COLUMNS = (
    "Method",
    "Seeds",
    "After pre-training",
    "At the end",
    "IQM at the end",
    "Success, any step",
    "Success, last step",
    "Steps in success",
    "Online episodes",
    "Gradient steps",
)


def text_table(comparison: Comparison) -> str:
    """The table for a terminal, in Markdown."""
    rows = [_COLUMNS, *(_row(method) for method in comparison.methods)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    title = f"{_title(comparison)} on {comparison.env}"
    return "\n".join([title, "", *lines, "", FOOTNOTE, *(f"Note: {note}" for note in comparison.notes)])


def _points(comparison: Comparison) -> list[dict[str, object]]:
    """Every value of every seed."""
    return [
        {
            "method": method.name,
            "run": run.root,
            "step": point.step,
            "online_episodes": point.online_episodes,
            comparison.metric: point.values[seed],
        }
        for method in comparison.methods
        for seed, run in enumerate(method.runs)
        for point in {point.step: point for point in (*method.offline, *method.online)}.values()
    ]


def _table(comparison: Comparison) -> list[dict[str, object]]:
    """A row a method; nothing after pre-training where nothing was evaluated then."""
    names = ("mean", "low", "high", "iqm", "iqm_low", "iqm_high")
    rows = []
    for method in comparison.methods:
        row: dict[str, object] = {"method": method.name, "seeds": len(method.runs)}
        for when, point in (("pretrained", method.pretrained), ("last", method.last)):
            values = [""] * len(names) if point is None else _numbers(point)
            row |= {f"{when}_{name}": value for name, value in zip(names, values, strict=True)}
        # Named as in evaluations.jsonl: means at the last evaluation.
        row |= {name: method.success[name].mean if name in method.success else "" for name in SUCCESS}
        rows.append(row | {"online_episodes": method.last.online_episodes, "gradient_steps": method.last.step})
    return rows


def _numbers(point: Point) -> list[float]:
    return [point.mean, *point.interval, point.iqm, *point.iqm_interval]


def _row(method: Method) -> tuple[str, ...]:
    last = method.last
    pretrained = "-" if method.pretrained is None else _with_interval(method.pretrained)
    iqm = f"{number(last.iqm)} [{_bounds(last.iqm_interval)}]"
    counts = (f"{last.online_episodes:,}", f"{last.step:,}")
    return (method.name, str(len(method.runs)), pretrained, _with_interval(last), iqm, *_success(method), *counts)


def _success(method: Method) -> list[str]:
    """Success at the end, in its three ways; a dash where the runs' records do not hold one."""
    return [number(method.success[name].mean) if name in method.success else "-" for name in SUCCESS]


def _with_interval(point: Point) -> str:
    return f"{number(point.mean)} [{_bounds(point.interval)}]"


def _bounds(interval: tuple[float, float]) -> str:
    return f"{number(interval[0])}, {number(interval[1])}"


def _named(run: str) -> tuple[str | None, Path]:
    """``NAME=directory``, or a directory."""
    name, given, path = run.partition("=")
    if not given or Path(run).is_dir():
        return None, Path(run)
    if not name.strip():
        raise SettingError("runs", run, "Give NAME=DIRECTORY, or a directory.")
    return name, Path(path)
