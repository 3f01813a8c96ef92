"""The bound on the performance gap: 2 * alpha * eps_u(pi*) >= J(pi*) - J(pi) (MOTO, Theorem B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor

from moto_pl.agents.loading import load_agent
from moto_pl.analysis.charts import COLOURS, charts_style
from moto_pl.analysis.episodes import episode_batch, model_based
from moto_pl.analysis.output import Finding
from moto_pl.analysis.records import read_run
from moto_pl.analysis.statistics import Interval, spearman
from moto_pl.callbacks.snapshots import DIRECTORY
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode


class FixedActions(NamedTuple):
    """H recorded actions from each of n starts of an episode.

    Attributes:
        start: posterior states [n, ...].
        action: [H, n, A]; row i holds what was done i steps after each start.
    """

    start: States
    action: Tensor


def fixed_actions(states: States, action: Tensor, horizon: int) -> FixedActions:
    """From each of the first T - H states of an episode of T steps, the next H actions.

    Args:
        states: posterior states [T + 1, ...].
        action: [T, A]; action t was taken in state t.
        horizon: H, 1 to T - 1.
    """
    steps = len(action)
    if not 1 <= horizon < steps:
        raise SettingError("--horizon", horizon, f"Give 1 to {steps - 1}: the shortest episode has {steps} steps.")
    starts = steps - horizon
    ahead = torch.stack([action[i : i + starts] for i in range(horizon)])  # [H, T - H, A]
    return FixedActions(states.map(lambda x: x[:starts]), ahead)


@torch.no_grad()
def expert_uncertainty(
    model: WorldModel, episode: Episode, horizon: int, kind: Disagreement, key: Key, chunk: int = 128
) -> float:
    """eps_u(pi*) of one expert episode: 1 / (H (T - H)) times the sum of u over starts and steps (MOTO, Eq. 12).

    Args:
        model: the world model.
        episode: of T steps, T > H.
        horizon: H, steps that the expert's actions are rolled from each of the first T - H states.
        kind: the estimator of u.
        key: names the draws.
        chunk: starts that are rolled together.

    Raises:
        SettingError: where the model's latents do not have the estimator.
    """
    device = next(model.parameters()).device
    batch = episode_batch(episode, device)
    states = model.observe(batch, key).states.map(lambda x: x[:, 0])  # [T + 1, ...]
    start, action = fixed_actions(states, batch.action[0, 1:], horizon)
    total = 0.0
    for first in range(0, len(start.deter), chunk):
        part = slice(first, first + chunk)
        ahead = action[:, part]
        rolled = model.roll(start.map(lambda x: x[part]), lambda i, _: ahead[i], horizon, key.fold(1 + first))  # noqa: B023
        total += float(model.disagreement(rolled.prior, rolled.states.stoch[1:], kind).double().sum())
    return total / (horizon * len(start.deter))


class Bound(NamedTuple):
    """The bound along a run.

    Attributes:
        uncertainty: eps_u(pi*) of each snapshot [n].
        gap: J(pi*) - J(pi) of each [n].
        alpha: the least for which 2 * alpha * eps_u bounds the gap at every snapshot; 0 where there is no gap to bound.
        correlation: Spearman's of the two; nan where one of them is constant.
        interval: 95% bootstrap interval of it.
    """

    uncertainty: np.ndarray
    gap: np.ndarray
    alpha: float
    correlation: float
    interval: Interval


def bound(uncertainty: Sequence[float], gap: Sequence[float]) -> Bound:
    """The least alpha and the rank correlation of n snapshots; n >= 1, ``uncertainty`` above 0."""
    eps, gaps = np.asarray(uncertainty, np.float64), np.asarray(gap, np.float64)
    if eps.shape != gaps.shape or eps.ndim != 1 or not len(eps) or not (eps > 0).all():
        raise SettingError("uncertainty", f"{eps.tolist()} for {len(gaps)} gaps", "Give a positive one for each gap.")
    alpha = max(0.0, float((gaps / (2 * eps)).max()))
    return Bound(eps, gaps, alpha, *spearman(eps, gaps))


def find_bound(
    run: Path, episodes: Sequence[Episode], expert: str, horizon: int = 15, kind: Disagreement = "mean"
) -> Finding:
    """Follows the bound along a run's snapshots; see :class:`moto_pl.callbacks.Snapshots`.

    Args:
        run: a run with snapshots and evaluations.
        episodes: of the expert, each of more than ``horizon`` steps.
        expert: what they are called in the caption.
        horizon: H.
        kind: the estimator of u.

    Raises:
        SettingError: where no snapshot has an evaluation after the same gradient step.
    """
    evaluated = {e.step: e for e in read_run(run).evaluations if e.stage == "eval"}
    paths = {int(path.stem.split("_")[1]): path for path in sorted((run / DIRECTORY).glob("step_*.ckpt"))}
    steps = sorted(set(evaluated) & set(paths))
    if not steps:
        fix = "Train it with --trainer.callbacks+=moto_pl.callbacks.Snapshots."
        raise SettingError("--run", f"{run}, without snapshots of its evaluations", fix)
    best = float(np.mean([episode.total_reward for episode in episodes]))
    uncertainty, gaps = [], []
    for step in track(steps, "snapshots", transient=True):
        model = model_based(load_agent(paths[step])).world_model
        eps = [expert_uncertainty(model, e, horizon, kind, Key(0, i)) for i, e in enumerate(episodes)]
        uncertainty.append(float(np.mean(eps)))
        gaps.append(best - float(np.mean(evaluated[step].returns)))
    rows = [
        {
            "step": step,
            "online_episodes": evaluated[step].online_episodes,
            "expert_uncertainty": eps,
            "return": float(np.mean(evaluated[step].returns)),
            "gap": gap,
        }
        for step, eps, gap in zip(steps, uncertainty, gaps, strict=True)
    ]
    result = bound(uncertainty, gaps)
    low, high = result.interval
    caption = (
        f"Left: the model's uncertainty about the expert's actions, eps_u(pi*) (estimator {kind}, {horizon} steps "
        f"from each state of {len(episodes)} episodes of {expert}), and the gap between the expert's mean return "
        f"({best:.1f}) and the policy's in evaluation, at {len(steps)} moments of {run.name}. Right: one against the "
        f"other, with the line of the least alpha for which 2 * alpha * eps_u bounds the gap at each of them: "
        f"{result.alpha:.3g}. Spearman's correlation {result.correlation:.2f} [{low:.2f}, {high:.2f}]. The paper "
        "(Fig. 6) finds that both fall together during fine-tuning."
    )
    summary = {"alpha": result.alpha, "spearman": result.correlation, "low": low, "high": high, "snapshots": len(steps)}
    title = "Does the bound hold?"
    return Finding("bound", title, caption, _figure(steps, result), rows, summary)


def _figure(steps: Sequence[int], result: Bound) -> Figure:
    with charts_style():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(steps, result.uncertainty, "o-", color=COLOURS[0], markersize=4)
        left.set_xlabel("gradient steps")
        left.set_ylabel("expert uncertainty", color=COLOURS[0])
        left.set_ylim(bottom=0)
        other = left.twinx()
        other.plot(steps, result.gap, "s--", color=COLOURS[1], markersize=4)
        other.set_ylabel("performance gap", color=COLOURS[1])
        other.grid(False)
        right.plot(result.uncertainty, result.gap, "o", color=COLOURS[0], markersize=5)
        ends = np.array([0, result.uncertainty.max() * 1.05])
        right.plot(ends, 2 * result.alpha * ends, "--", color=COLOURS[5], label=f"2 * {result.alpha:.3g} * uncertainty")
        right.set_xlabel("expert uncertainty")
        right.set_ylabel("performance gap")
        right.set_xlim(left=0)
        right.legend()
    return figure
