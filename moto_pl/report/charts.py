"""Charts as inline SVG that takes its colours from the page, so that one chart serves light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from moto_pl.report.comparison import Comparison, Metric, Point
from moto_pl.report.records import Series
from moto_pl.report.statistics import Interval

# Told apart by lightness too, and readable on white and on near-black.
COLOURS = ("#3d7fd6", "#e08214", "#1f9e77", "#b05cc6", "#d1495b", "#7d8a97")
STYLES = ("-", "--", "-.", ":")
POINTS = 400  # a curve of more points is drawn as means of neighbours

# Matplotlib wants a colour; the page's own text colour takes its place.
_TEXT = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moto",  # the same chart gives the same bytes
    "font.size": 10,
    "text.color": _TEXT,
    "text.parse_math": False,  # names from files are no formulas
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _TEXT,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
#: Within ``with charts_style():`` figures look like our charts.
charts_style = partial(matplotlib.rc_context, _STYLE)


class Curve(NamedTuple):
    """A line of a chart."""

    label: str
    x: np.ndarray  # [n]
    y: np.ndarray  # [n]
    faint: bool = False  # single points behind a smoother line


def line_chart(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    name: str,
    offline_steps: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Lines over gradient steps or episodes.

    Args:
        curves: the lines; empty ones are left out.
        x_label: below the chart.
        y_label: beside it.
        name: a word that is unique on the page, for the SVG's ids.
        offline_steps: end of the offline phase, which is shaded; None shades nothing.
        bounds: of the y axis.

    Returns:
        An ``<svg>`` element.
    """

    def draw(axes: Axes) -> None:
        lines = 0
        for curve in curves:
            if curve.faint:
                axes.plot(curve.x, curve.y, ".", color=COLOURS[5], alpha=0.5, markersize=5, label=curve.label)
                continue
            marker = "o" if len(curve.x) <= 12 else ""
            axes.plot(
                curve.x,
                curve.y,
                STYLES[lines % len(STYLES)],
                marker=marker,
                markersize=4,
                color=COLOURS[lines % len(COLOURS)],
                label=curve.label,
            )
            lines += 1
        if len(curves) > 1:
            # A row of long names would be wider than the chart, and squeeze it.
            columns = 3 if sum(len(curve.label) for curve in curves) <= 42 else 2
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)

    return _svg(draw, x_label, y_label, name, offline_steps, bounds)


def interval_chart(
    x: Sequence[float],
    y: Sequence[float],
    intervals: Sequence[Interval],
    x_label: str,
    y_label: str,
    name: str,
    offline_steps: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> str:
    """Points with their intervals, joined by a line; see :func:`line_chart`."""

    def draw(axes: Axes) -> None:
        low, high = (np.array([interval[i] for interval in intervals]) for i in (0, 1))
        centre = np.asarray(y, np.float64)
        # An interval need not hold its point (a median's, or rounding): bars of negative length do not exist.
        bars = np.clip(np.stack((centre - low, high - centre)), 0, None)
        axes.errorbar(x, centre, yerr=bars, fmt="o-", color=COLOURS[0], markersize=5, capsize=3, elinewidth=1.2)

    return _svg(draw, x_label, y_label, name, offline_steps, bounds)


Outcome = Literal[
    "failed", "success, last step not recorded", "success before the last step", "success at the last step"
]
# Told apart by lightness and by colour, for those who do not see one of them. Failures stand out.
OUTCOME_COLOURS: dict[Outcome, str] = {
    "failed": COLOURS[1],
    "success, last step not recorded": "#7aa7e6",
    "success before the last step": "#b3cdf2",
    "success at the last step": "#2a5fa8",
}


def seeds_chart(
    steps: Sequence[int],
    seeds: Sequence[str],
    outcomes: Sequence[Sequence[Outcome | None]],
    failed: Sequence[str],
    name: str,
) -> str:
    """A cell for each seed and evaluation.

    Args:
        steps: of each evaluation [E], the columns' names.
        seeds: the rows' names [S].
        outcomes: [S][E]; None where the seed was not evaluated then.
        failed: at the right of each row [S]: how often it failed.
        name: as in :func:`line_chart`.
    """
    shown = [outcome for outcome in OUTCOME_COLOURS if any(outcome in row for row in outcomes)]
    with charts_style():
        figure = Figure(figsize=(8.4, 1.1 + 0.19 * len(seeds)), layout="constrained")
        axes = figure.subplots()
        for outcome in shown:
            at = [
                (column, row) for row, of in enumerate(outcomes) for column, found in enumerate(of) if found == outcome
            ]
            cells = [Rectangle((x - 0.46, y - 0.42), 0.92, 0.84) for x, y in at]
            axes.add_collection(PatchCollection(cells, facecolor=OUTCOME_COLOURS[outcome], linewidth=0))
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_ylim(len(seeds) - 0.5, -0.5)  # the first row is at the top
        columns = range(0, len(steps), -(-len(steps) // 12))
        axes.set_xticks(columns, [f"{steps[i]:,}" for i in columns])
        axes.set_yticks(range(len(seeds)), seeds, fontsize=8)
        axes.set_xlabel("gradient steps")
        axes.set_ylabel("seed")
        axes.grid(False)
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(seeds)), failed, fontsize=8)
        right.set_ylabel("failed")
        for side in (axes, right):
            side.tick_params(axis="y", length=0)
            side.spines[:].set_visible(False)
        handles = [Patch(color=OUTCOME_COLOURS[outcome], label=outcome) for outcome in shown]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(shown))
        return inline_svg(figure, name)


# Eight methods at once: colour and marker tell them apart together.
METHOD_COLOURS = (*COLOURS[:5], "#8c6d31", "#17a2b8", "#7d8a97")
MARKERS = "osD^vPX*"

METRIC_LABELS: dict[Metric, str] = {
    "success": "success rate",
    "success_last": "success rate at the last step",
    "success_steps": "steps in success",
    "objects": "objects completed",
    "return": "return",
}


def comparison_figure(comparison: Comparison) -> Figure:
    """Learning curves in the paper's layout: the offline phase at the left, online episodes at the right.

    A line a method, its mean over the seeds; the band is the 95% bootstrap interval of that mean.
    """
    label = METRIC_LABELS[comparison.metric]
    offline = any(method.offline for method in comparison.methods)
    with charts_style():
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        if offline:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 3))
            left.set_title("offline", fontsize=10)
            left.set_xlabel("gradient steps")
            right.set_title("online", fontsize=10)
        else:
            left, right = None, figure.subplots()
        for number, method in enumerate(comparison.methods):
            look = {"color": METHOD_COLOURS[number % 8], "marker": MARKERS[number % 8], "markersize": 4.5}
            look["linestyle"] = STYLES[number // 8 % len(STYLES)]
            if left is not None and method.offline:
                _method_line(left, [float(point.step) for point in method.offline], method.offline, look)
            _method_line(right, [float(point.online_episodes) for point in method.online], method.online, look)
            right.plot([], [], label=f"{method.name} ({len(method.runs)})", **look)
        for axes in (left, right):
            if axes is not None:
                axes.xaxis.set_major_locator(
                    MaxNLocator(nbins=3 if axes is left else 6, steps=[1, 2, 5, 10], integer=True)
                )
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        right.set_xlabel("online episodes")
        (right if left is None else left).set_ylabel(label)
        if comparison.most is not None:
            right.set_ylim(-0.04 * comparison.most, 1.04 * comparison.most)
        figure.legend(loc="outside right center", title="method (seeds)", title_fontsize=9)
    return figure


def _method_line(axes: Axes, x: list[float], points: Sequence[Point], look: dict[str, Any]) -> None:
    axes.plot(x, [point.mean for point in points], **look)
    intervals = [point.interval for point in points]
    low, high = ([interval[i] for interval in intervals] for i in (0, 1))
    if len(points) == 1:  # a band of one point would not be seen
        axes.vlines(x, low, high, color=look["color"], alpha=0.4, linewidth=4)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.14, linewidth=0)


def thin(series: Series) -> Series:
    """At most :data:`POINTS` points: the means of neighbours."""
    if len(series.step) <= POINTS:
        return series
    groups = np.array_split(np.arange(len(series.step)), POINTS)
    return Series(*(np.array([of[group].mean() for group in groups]) for of in (series.step, series.value)))


def _svg(
    draw: Callable[[Axes], None],
    x_label: str,
    y_label: str,
    name: str,
    offline_steps: int | None,
    bounds: tuple[float, float] | None,
) -> str:
    with charts_style():
        figure = Figure(figsize=(4.4, 2.8), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if bounds is not None:
            axes.set_ylim(bounds[0] - 0.04 * (bounds[1] - bounds[0]), bounds[1] + 0.04 * (bounds[1] - bounds[0]))
        if offline_steps is not None:
            _shade_offline(axes, offline_steps)
        return inline_svg(figure, name)


def image_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file's content, on white."""
    with charts_style():
        buffer = io.BytesIO()
        dates = {"Date": None, "Creator": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=160, metadata=dates)
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element that takes its text colour from the page; ``name`` is unique on the page."""
    with charts_style():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Many charts share a page, and an id may stand there once.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    # The page sets the size, and styles that hold inside a chart must not leak out of it.
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    return f"{opening}>" + re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", rest, count=1, flags=re.DOTALL)


def _shade_offline(axes: Axes, steps: int) -> None:
    right = max(axes.get_xlim()[1], 1.0)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), right)
    if steps <= 0:
        return
    axes.axvspan(0, min(steps, right), color=COLOURS[5], alpha=0.16, linewidth=0)
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": 8.5, "alpha": 0.75, "va": "bottom"}
    if steps < 0.15 * right:  # too narrow for its name
        axes.text(steps + 0.01 * right, 0.01, "← offline", **place)
        return
    axes.text(0.01 * right, 0.01, "offline", **place)
    if steps < 0.85 * right:
        axes.text(steps + 0.01 * right, 0.01, "online", **place)
