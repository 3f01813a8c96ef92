"""The bound on the performance gap: 2 * alpha * eps_u(pi*) >= J(pi*) - J(pi) (MOTO, Theorem B.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moto_pl.analysis.statistics import Interval, spearman
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import SequenceBatch


def episode_batch(episode: Episode, device: torch.device) -> SequenceBatch:
    """One whole episode of T steps as a batch of a sequence of T + 1 rows."""
    steps, size = episode.action.shape
    is_first = torch.zeros(1, steps + 1, dtype=torch.bool)
    is_first[0, 0] = True
    is_terminal = torch.zeros_like(is_first)
    is_terminal[0, -1] = episode.terminated
    image = torch.from_numpy(np.ascontiguousarray(episode.image)).permute(0, 3, 1, 2).unsqueeze(0)
    action = torch.cat((torch.zeros(1, size), torch.from_numpy(np.asarray(episode.action, np.float32))))
    reward = torch.cat((torch.zeros(1), torch.from_numpy(np.asarray(episode.reward, np.float32))))
    batch = SequenceBatch(image, action.unsqueeze(0), reward.unsqueeze(0), is_first, is_terminal)
    return SequenceBatch(*(part.to(device) for part in batch))


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
