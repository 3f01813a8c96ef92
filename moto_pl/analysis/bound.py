"""The bound on the performance gap: ``2 * alpha * eps_u(pi*) >= J(pi*) - J(pi)`` (MOTO, Theorem B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor

from moto_pl.agents.loading import load_agent
from moto_pl.analysis.episodes import model_based
from moto_pl.callbacks.snapshots import DIRECTORY
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.nn.world_model import replayed
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import episode_batch
from moto_pl.report.charts import COLOURS, charts_style
from moto_pl.report.output import Finding
from moto_pl.report.records import read_run
from moto_pl.report.statistics import Interval, spearman


def fixed_actions(states: States, action: Tensor, horizon: int) -> tuple[States, Tensor]:
    """From each of the first T - H states of an episode of T steps, the next H actions.

    Args:
        states: posterior states [T + 1, ...].
        action: [T, A]; action t was taken in state t.
        horizon: H, 1 to T - 1.

    Returns:
        The n = T - H starts [n, ...], and the actions [H, n, A]: row i holds what was done i steps after each start.

    Raises:
        SettingError: another horizon.
    """
    steps = len(action)
    if not 1 <= horizon < steps:
        raise SettingError("--horizon", horizon, f"Give 1 to {steps - 1}: the shortest episode has {steps} steps.")
    starts = steps - horizon
    ahead = torch.stack([action[i : i + starts] for i in range(horizon)])  # [H, T - H, A]
    return states.map(lambda x: x[:starts]), ahead


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
        rolled = model.roll(start.map(itemgetter(part)), replayed(action[:, part]), horizon, key.fold(1 + first))
        total += float(model.disagreement(rolled.prior, rolled.states.stoch[1:], kind).double().sum())
    return total / (horizon * len(start.deter))


class Moment(NamedTuple):
    """A run at one of its evaluations.

    Attributes:
        step: gradient steps taken.
        online_episodes: collected before it.
        online: whether pre-training had ended by then; its very end is the first moment of the online phase.
        uncertainty: eps_u(pi*), above 0.
        gap: J(pi*) - J(pi).
    """

    step: int
    online_episodes: int
    online: bool
    uncertainty: float
    gap: float


class Bound(NamedTuple):
    """The bound at n moments.

    Attributes:
        uncertainty: eps_u(pi*) of each [n].
        gap: J(pi*) - J(pi) of each [n].
        alpha: the least for which 2 * alpha * eps_u bounds the gap at each of them; 0 where there is no gap to bound.
        correlation: Spearman's of the two; nan where one of them is constant.
        interval: 95% bootstrap interval of it.
    """

    uncertainty: np.ndarray
    gap: np.ndarray
    alpha: float
    correlation: float
    interval: Interval

    def __str__(self) -> str:
        """Correlation, interval and n."""
        if np.isnan(self.correlation):
            return f"none (n = {len(self.gap)}: one side does not vary)"
        low, high = self.interval
        return f"{self.correlation:.2f} [{low:.2f}, {high:.2f}] (n = {len(self.gap)})"


def bound(uncertainty: Sequence[float], gap: Sequence[float]) -> Bound:
    """The least alpha and the rank correlation of n moments; n >= 1, ``uncertainty`` above 0."""
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
        SettingError: where no snapshot has an evaluation after the same gradient step, or none is of the online phase.
    """
    record = read_run(run)
    evaluated = {e.step: e for e in record.evaluations if e.stage == "eval"}
    paths = {int(path.stem.split("_")[1]): path for path in sorted((run / DIRECTORY).glob("step_*.ckpt"))}
    steps = sorted(set(evaluated) & set(paths))
    if not steps:
        fix = "Train it with --trainer.callbacks+=moto_pl.callbacks.Snapshots."
        raise SettingError("--run", f"{run}, without snapshots of its evaluations", fix)
    if not any(evaluated[step].phase in ONLINE_PHASES for step in steps):
        fix = "Let it train to the end of pre-training and beyond: the bound is judged over the online phase."
        raise SettingError("--run", f"{run}, without a snapshot of the online phase", fix)
    best = float(np.mean([episode.total_reward for episode in episodes]))
    moments = []
    for step in track(steps, "snapshots", transient=True):
        model = model_based(load_agent(paths[step])).world_model
        eps = [expert_uncertainty(model, e, horizon, kind, Key(0, i)) for i, e in enumerate(episodes)]
        e = evaluated[step]
        gap = best - float(np.mean(e.returns))
        moments.append(Moment(step, e.online_episodes, e.phase in ONLINE_PHASES, float(np.mean(eps)), gap))
    behaviour = record.setting("model", "init_args", "behaviour")
    alpha = behaviour.get("disagreement_scale") if isinstance(behaviour, dict) else None
    how = f"estimator {kind}, {horizon} steps from each state of {len(episodes)} episodes of {expert}"
    return bound_finding(moments, best, how, run.name, float(alpha) if isinstance(alpha, int | float) else None)


#: Evaluations from the end of pre-training on; see :meth:`moto_pl.schedule.Schedule.phase`.
ONLINE_PHASES = ("pretrained", "online", "final")


def bound_finding(
    moments: Sequence[Moment], best: float, how: str, run: str, penalty_scale: float | None = None
) -> Finding:
    """Figure 6 and its numbers, from what was measured.

    Args:
        moments: of a run, at least one of them online.
        best: the expert's mean return.
        how: the uncertainty was measured, for the caption.
        run: its name, for the caption.
        penalty_scale: the alpha that the agent was trained with; None where unknown.
    """
    online = [moment for moment in moments if moment.online]
    over, all_moments = (bound([m.uncertainty for m in of], [m.gap for m in of]) for of in (online, moments))
    most = float(over.uncertainty.max())
    caption = (
        f"The model's uncertainty about the expert's actions, eps_u(pi*) ({how}), and the gap between the expert's "
        f"mean return ({best:.1f}) and the policy's in evaluation, at {len(moments)} moments of {run}. Left: along the "
        "run. Right: one against the other over the online phase, the uncertainty divided by its largest there "
        f"({most:.3g}); crosses are of pre-training, which the paper's figure leaves out. (The paper does not say how "
        "it normalises.) The least alpha for which 2 * alpha * eps_u bounds the gap: "
        f"{_amount(over.alpha)} over the online phase (dashed), {_amount(all_moments.alpha)} over all moments; eps_u "
        f"is a mean over steps, the gap a sum over an episode.{_at_scale(penalty_scale, over)} Spearman's correlation: "
        f"over the online phase {over}; over all moments {all_moments}. The paper (Fig. 6) finds the gap bounded "
        "during fine-tuning, up to the choice of alpha, and gives no number."
    )
    rows = [
        {
            "step": m.step,
            "online_episodes": m.online_episodes,
            "phase": "online" if m.online else "offline",
            "expert_uncertainty": m.uncertainty,
            "normalized_uncertainty": m.uncertainty / most,
            "return": best - m.gap,
            "gap": m.gap,
        }
        for m in moments
    ]
    summary: dict[str, float | int] = {}
    for name, result in (("", over), ("_all", all_moments)):
        low, high = result.interval
        summary |= {f"alpha{name}": result.alpha, f"spearman{name}": result.correlation}
        summary |= {f"low{name}": low, f"high{name}": high, f"moments{name}": len(result.gap)}
    return Finding("bound", "Does the bound hold?", caption, _figure(moments, over), rows, summary)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _at_scale(scale: float | None, result: Bound) -> str:
    """What the bound's left side is at the alpha that the agent was trained with."""
    if scale is None:
        return ""
    low, high = 2 * scale * result.uncertainty.min(), 2 * scale * result.uncertainty.max()
    held = int((2 * scale * result.uncertainty >= result.gap).sum())
    return (
        f" At the agent's own alpha, {scale:g}, the left side is {low:.3g} to {high:.3g}, where the gap is "
        f"{result.gap.min():.4g} to {result.gap.max():.4g}: the bound holds at {held} of {len(result.gap)} moments."
    )


def _figure(moments: Sequence[Moment], over: Bound) -> Figure:
    steps = [m.step for m in moments]
    ended = next(m.step for m in moments if m.online)
    most = float(over.uncertainty.max())
    with charts_style():
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(steps, [m.uncertainty for m in moments], "o-", color=COLOURS[0], markersize=4)
        left.set_xlabel("gradient steps")
        left.set_ylabel("expert uncertainty", color=COLOURS[0])
        left.set_ylim(bottom=0)
        other = left.twinx()
        other.plot(steps, [m.gap for m in moments], "s--", color=COLOURS[1], markersize=4)
        other.set_ylabel("performance gap", color=COLOURS[1])
        lowest, highest = (of(m.gap for m in moments) for of in (min, max))
        other.set_ylim(bottom=min(0.0, 1.05 * lowest), top=max(1.05 * highest, 0.0) or None)
        other.grid(False)
        if ended > steps[0]:
            left.axvspan(steps[0], ended, color=COLOURS[5], alpha=0.16, linewidth=0)
            left.set_title("shaded: pre-training", fontsize=9)
        for online, look in (
            (False, {"marker": "x", "color": COLOURS[5]}),
            (True, {"marker": "o", "color": COLOURS[0]}),
        ):
            of = [m for m in moments if m.online == online]
            if of:
                label = f"{'online phase' if online else 'pre-training'} ({len(of)})"
                right.plot([m.uncertainty / most for m in of], [m.gap for m in of], linestyle="", label=label, **look)
        # No further than the crosses reach, and no higher than tells it from the points.
        ends = np.array([0, max(m.uncertainty for m in moments) / most * 1.05])
        line = 2 * over.alpha * most * ends
        right.plot(ends, line, "--", color=COLOURS[4], label="2 * alpha * uncertainty, least alpha")
        if highest > 0:
            right.set_ylim(min(0.0, 1.05 * lowest), 1.3 * highest)
        right.set_xlabel("expert uncertainty / its largest online")
        right.set_ylabel("performance gap")
        right.set_xlim(left=0)
        figure.legend(loc="outside upper right", ncols=3)
    return figure
