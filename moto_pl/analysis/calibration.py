"""Does disagreement know where the model errs? Against true prediction errors on data that was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from matplotlib.figure import Figure

from moto_pl.analysis.bound import fixed_actions
from moto_pl.nn import WorldModel
from moto_pl.nn.image import to_float
from moto_pl.nn.world_model import replayed
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import episode_batch
from moto_pl.report.charts import COLOURS, charts_style
from moto_pl.report.output import Finding
from moto_pl.report.statistics import Interval, spearman


class Predictions(NamedTuple):
    """Predictions of H steps from n states, on recorded actions.

    Attributes:
        error: squared error of the last decoded frame, summed over its pixels [n].
        disagreement: by estimator, the mean of u over the H steps [n].
        shuffled: the same where each start is rolled on another's actions [n]: a control.
        episode: which episode each is from [n].
    """

    error: np.ndarray
    disagreement: dict[Disagreement, np.ndarray]
    shuffled: dict[Disagreement, np.ndarray]
    episode: np.ndarray


class Calibration(NamedTuple):
    """How well a disagreement ranks errors.

    Attributes:
        correlation: Spearman's with the error.
        interval: 95% bootstrap interval of it, over episodes where there are several.
        area: under the risk-coverage curve: the mean error of the least-disagreed share, averaged over all shares.
        area_random: of a disagreement that knows nothing: the mean error.
        area_oracle: of one that ranks all errors right, the least possible.
    """

    correlation: float
    interval: Interval
    area: float
    area_random: float
    area_oracle: float


@torch.no_grad()
def predictions(
    model: WorldModel,
    episodes: Sequence[Episode],
    horizon: int,
    kinds: Sequence[Disagreement],
    key: Key,
    starts: int = 64,
) -> Predictions:
    """Rolls recorded actions ``horizon`` steps from up to ``starts`` states of each episode, evenly spaced."""
    device = next(model.parameters()).device
    errors: list[np.ndarray] = []
    found: list[dict[Disagreement, list[np.ndarray]]] = [{kind: [] for kind in kinds} for _ in range(2)]
    origin = []
    for number, episode in enumerate(episodes):
        batch = episode_batch(episode, device)
        states = model.observe(batch, key.fold(number)).states.map(lambda x: x[:, 0])  # [T + 1, ...]
        start, action = fixed_actions(states, batch.action[0, 1:], horizon)
        count = len(start.deter)
        rows = torch.linspace(0, count - 1, min(starts, count), device=device).round().long()
        start, action = start.map(lambda x: x[rows]), action[:, rows]  # noqa: B023
        # The next start's actions, half of them away: a derangement that keeps what actions look like.
        for use, taken in enumerate((action, action.roll(max(1, len(rows) // 2), 1))):
            rolled = model.roll(start, replayed(taken), horizon, key.fold(1000 + number))
            for kind in kinds:
                spread = model.disagreement(rolled.prior, rolled.states.stoch[1:], kind)  # [H, n]
                found[use][kind].append(spread.mean(0).cpu().numpy())
            if use == 0:
                image = model.decoder(rolled.states.map(lambda x: x[-1]).features).float()
                truth = to_float(batch.image[0, rows + horizon])
                errors.append((image - truth).square().sum((1, 2, 3)).cpu().numpy())
        origin.append(np.full(len(rows), number))
    joined = [{kind: np.concatenate(parts) for kind, parts in by_kind.items()} for by_kind in found]
    return Predictions(np.concatenate(errors), joined[0], joined[1], np.concatenate(origin))


def calibration(disagreement: np.ndarray, error: np.ndarray, episode: np.ndarray | None = None) -> Calibration:
    """Ranks errors [n] by disagreement [n]; ``episode`` [n] says which belong together."""
    correlation, interval = spearman(disagreement, error, episode)
    _, risk = risk_coverage(disagreement, error)
    _, best = risk_coverage(error, error)
    return Calibration(correlation, interval, float(risk.mean()), float(error.mean()), float(best.mean()))


def risk_coverage(disagreement: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverages 1/n .. 1, and at each the mean error of that share of the data that is disagreed about least."""
    order = np.argsort(disagreement, kind="stable")
    counts = np.arange(1, len(error) + 1)
    return counts / len(error), np.cumsum(np.asarray(error, np.float64)[order]) / counts


def find_calibration(
    model: WorldModel, episodes: Sequence[Episode], data: str, horizons: Sequence[int] = (1, 15), starts: int = 64
) -> Finding:
    """All estimators that the model's latents allow, at each horizon, and their controls.

    Args:
        model: the world model.
        episodes: that it was not trained on, each of more steps than the longest horizon.
        data: what they are called in the caption.
        horizons: steps between a state and the frame that is predicted.
        starts: states of each episode.
    """
    gaussian = model.config.latent == "gaussian"
    # A Gaussian's logit is the same as its mean; the others have no max_var.
    kinds: list[Disagreement] = [
        kind for kind in get_args(Disagreement) if kind != ("logit" if gaussian else "max_var")
    ]
    rows: list[dict[str, Any]] = []
    found = {horizon: predictions(model, episodes, horizon, kinds, Key(0, horizon), starts) for horizon in horizons}
    for horizon, predicted in found.items():
        for kind in kinds:
            for control, by_kind in ((False, predicted.disagreement), (True, predicted.shuffled)):
                result = calibration(by_kind[kind], predicted.error, predicted.episode)
                rows.append(
                    {
                        "horizon": horizon,
                        "estimator": kind,
                        "shuffled_actions": control,
                        "predictions": len(predicted.error),
                        "spearman": result.correlation,
                        "low": result.interval.low,
                        "high": result.interval.high,
                        "risk_coverage_area": result.area,
                        "area_random": result.area_random,
                        "area_oracle": result.area_oracle,
                    }
                )
    real = [row for row in rows if not row["shuffled_actions"] and row["horizon"] == horizons[-1]]
    best = max(real, key=lambda row: -np.inf if np.isnan(row["spearman"]) else row["spearman"])
    said = "; ".join(f"{row['estimator']} {row['spearman']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in real)
    caption = (
        f"Disagreement against the squared error of the predicted frame, from {len(found[horizons[-1]].error)} states "
        f"of {len(episodes)} episodes of {data}, on their own actions. Above: each prediction over {horizons[-1]} "
        "steps. Below: the mean error of the share of predictions that is disagreed about least; the grey lines are a "
        f"perfect ranking and none. Spearman's correlation over {horizons[-1]} steps: {said}. With other states' "
        "actions, the dotted control, disagreement should know less of the error. The paper uses one estimator and "
        "does not calibrate it."
    )
    summary = {"best_estimator": best["estimator"], "spearman": best["spearman"], "horizon": horizons[-1]}
    figure = _figure(found[horizons[-1]], kinds)
    return Finding("calibration", "Does disagreement know where the model errs?", caption, figure, rows, summary)


def _figure(predicted: Predictions, kinds: Sequence[Disagreement]) -> Figure:
    with charts_style():
        figure = Figure(figsize=(2.9 * len(kinds), 5.4), layout="constrained")
        axes = figure.subplots(2, len(kinds), squeeze=False, sharey="row")
        for column, kind in enumerate(kinds):
            scatter, curve = axes[0, column], axes[1, column]
            scatter.plot(predicted.disagreement[kind], predicted.error, ".", color=COLOURS[0], alpha=0.4, markersize=4)
            scatter.set_title(kind, fontsize=10)
            scatter.set_xlabel("disagreement")
            curve.plot(*risk_coverage(predicted.disagreement[kind], predicted.error), color=COLOURS[0], label=kind)
            shuffled = risk_coverage(predicted.shuffled[kind], predicted.error)
            curve.plot(*shuffled, ":", color=COLOURS[1], label="shuffled actions")
            curve.plot(*risk_coverage(predicted.error, predicted.error), "-", color=COLOURS[5], linewidth=1)
            curve.axhline(float(predicted.error.mean()), color=COLOURS[5], linewidth=1)
            curve.set_xlabel("coverage")
            curve.legend(loc="lower right")
        axes[0, 0].set_ylabel("squared error")
        axes[1, 0].set_ylabel("mean squared error")
    return figure
