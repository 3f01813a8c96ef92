"""Charts of what was logged while training: losses and the like over gradient steps, collected episodes, speed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from moto_pl.report.charts import METRIC_LABELS, Curve, line_chart, thin
from moto_pl.report.comparison import Metric
from moto_pl.report.html import Chart, number
from moto_pl.report.records import RunRecord, Series
from moto_pl.report.statistics import running_mean

WINDOW = 10  # online episodes that a running mean covers


class Plot(NamedTuple):
    """Metrics that share a chart."""

    title: str
    metrics: tuple[str, ...]
    caption: str


PLOTS = (
    Plot(
        "Image loss",
        ("model/image", "held_out/model/image"),
        "Negative log-likelihood of the frames, without its constant.",
    ),
    Plot(
        "Reward loss",
        ("model/reward", "held_out/model/reward"),
        "Negative log-likelihood of the rewards, without its constant.",
    ),
    Plot(
        "Latent KL",
        ("model/kl", "model/kl_nats", "held_out/model/kl"),
        "model/kl is the loss, which stops at the free nats; model/kl_nats is the divergence itself.",
    ),
    Plot("Critic losses", ("critic/model", "critic/real"), "Squared errors on imagined and on real transitions."),
    Plot(
        "Values",
        ("critic/value", "critic/target", "actor/return"),
        "What critics and imagination expect, the penalty included.",
    ),
    Plot(
        "Actor losses",
        ("actor/value", "actor/clone"),
        "actor/value falls as the expected value grows; actor/clone is the weighted imitation of good data.",
    ),
    Plot(
        "Policy",
        ("actor/entropy", "actor/clone_log_prob", "actor/clone_share"),
        "Entropy of the policy, and its log-density of the cloned actions.",
    ),
    Plot(
        "Imagined reward and penalty",
        ("imagined/reward", "imagined/penalty"),
        "Means per imagined step. A penalty far above the reward keeps the policy where the model's heads agree.",
    ),
    Plot("Gradient norms", ("grad_norm/model", "grad_norm/actor", "grad_norm/critic"), "Before clipping."),
)
SPEED_PLOTS = (
    Plot("Gradient steps per second", ("speed/updates_per_s",), "Training time alone."),
    Plot("Environment steps per second", ("speed/env_steps_per_s",), "Collecting time alone."),
    Plot("Time spent waiting for data", ("speed/data_wait",), "Share of the training time, 0 to 1."),
)
# Metrics of these families that no plot above names (another agent's, say) are drawn in one chart a family.
FAMILIES = ("model", "critic", "actor", "imagined", "held_out")
IN_NO_CHART = ("model/data_disagreement", "model/posterior_entropy", "imagined/disagreement")


def online_charts(record: RunRecord) -> list[Chart]:
    """The episodes that the policy collected: a chart a metric; none for what was not recorded."""
    charts = []
    envs = parallel_envs(record)
    bounds: tuple[float, float] | None
    name: Metric
    for name, bounds in (
        ("success", (0.0, 1.0)),
        ("success_last", (0.0, 1.0)),
        ("success_steps", None),
        ("return", None),
        ("objects", None),
    ):
        series = record.metrics.get(f"online/{name}")
        if series is None:
            continue
        label = METRIC_LABELS[name]
        title = "Online success" if name == "success" else f"Online {label}"
        episode = envs * np.arange(1, len(series.value) + 1)
        rounds = math.ceil(WINDOW / envs)
        smooth = running_mean(series.value, rounds)
        curves = [
            Curve("single episodes" if envs == 1 else f"means of {envs} episodes", episode, series.value, True),
            Curve(f"running mean over {rounds * envs}", episode, smooth),
        ]
        charts.append(
            Chart(
                title,
                line_chart(curves, "online episode", label, f"online-{name}", None, bounds),
                "Episodes that the policy collected while exploring; each is trained on afterwards.",
                f"{title} over {episode[-1]:,} episodes; the running mean ends at {number(float(smooth[-1]))}.",
            )
        )
    return charts


def training_charts(record: RunRecord) -> list[Chart]:
    """A chart a :class:`Plot` of which something was logged; what no plot names is drawn by its family."""
    charts = _charts(record, PLOTS)
    named = {name for plot in (*PLOTS, *SPEED_PLOTS) for name in plot.metrics} | set(IN_NO_CHART)
    for family in FAMILIES:
        rest = tuple(name for name in record.metrics if name.startswith(f"{family}/") and name not in named)
        charts += _charts(record, (Plot(f"Other of {family}/", rest, "As logged."),))
    return charts


def speed_charts(record: RunRecord) -> list[Chart]:
    """How fast the run was, round by round."""
    return _charts(record, SPEED_PLOTS)


def parallel_envs(record: RunRecord) -> int:
    """Episodes of one row of the online metrics, which holds their means."""
    envs = record.setting("data", "num_envs")
    return envs if isinstance(envs, int) and envs > 0 else 1


def _charts(record: RunRecord, plots: Iterable[Plot]) -> list[Chart]:
    charts = []
    for plot in plots:
        found = [(name, record.metrics[name]) for name in plot.metrics if name in record.metrics]
        found = [(name, series) for name, series in found if np.isfinite(series.value).any()]
        if not found:
            continue
        curves = [Curve(name, *thin(series)) for name, series in found]
        slug = re.sub(r"[^a-z]+", "-", plot.title.lower()).strip("-")
        label = found[0][0] if len(found) == 1 else ""
        said = "; ".join(f"{name} {_course(series)}" for name, series in found)
        svg = line_chart(curves, "gradient steps", label, slug, record.offline_steps)
        charts.append(Chart(plot.title, svg, plot.caption, f"{plot.title} against gradient steps: {said}."))
    return charts


def _course(series: Series) -> str:
    return f"from {number(series.value[0])} to {number(series.value[-1])}"
