"""What evaluation episodes come to, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from moto_pl.errors import SettingError
from moto_pl.replay.episode import EpisodeFigures

MAX_OBJECTS = 32
#: What evaluations say of the critics' values; see :meth:`EpisodeMetrics.compute`.
VALUE_FIGURES = ("return_to_go", "value_bias", "value_correlation", "value_bias_cut", "value_correlation_cut")


class EpisodeMetrics(Metric):
    """Means over episodes of return, success and length; each episode counts once, wherever it was rolled.

    Success is counted in three ways, because a policy may pass through success without staying there: ``success`` at
    any step, ``success_last`` at the episode's last step (the one that terminated it or at which it was cut off), and
    ``success_steps``, how many steps were in success.

    Where the task has objects, an episode's ``completed`` extra says at which steps each was in place; an object counts
    in an episode if it was in place at any step.

    Where values were given (:meth:`add_values`), they are compared with what was really earned.

    Attributes:
        objects: names of the task's objects, in the order of the extra; empty where there are none.
    """

    full_state_update = False
    totals: Tensor
    completed: Tensor
    episodes: Tensor
    values: Tensor

    def __init__(self, objects: Iterable[str] = ()) -> None:
        super().__init__()
        self.objects = tuple(objects)
        self.add_state("totals", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("completed", torch.zeros(MAX_OBJECTS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("episodes", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        # Of n steps' values Q and returns-to-go G: n, sums of Q, G, Q^2, G^2, QG, and of those whose G was cut short.
        self.add_state("values", torch.zeros(7, dtype=torch.float64), dist_reduce_fx="sum")

    def add_values(self, value: np.ndarray, earned: np.ndarray, cut: bool) -> None:
        """Adds an episode's values.

        Args:
            value: [T], what the critic says of the action taken at each step.
            earned: [T], the discounted rewards from each step on.
            cut: whether rewards that still counted were not waited for.
        """
        q, g = (torch.from_numpy(np.asarray(part, np.float64)) for part in (value, earned))
        sums = [q.new_tensor(len(q)), q.sum(), g.sum(), q.square().sum(), g.square().sum(), (q * g).sum()]
        self.values += torch.stack([*sums, q.new_tensor(len(q) if cut else 0)]).to(self.values.device)

    def update(self, episodes: Iterable[EpisodeFigures]) -> None:
        """Adds episodes."""
        for episode in episodes:
            success = (episode.succeeded, episode.success_last, episode.success_steps)
            row = [episode.total_reward, *map(float, success), float(episode.length)]
            self.totals += torch.tensor(row, dtype=torch.float64, device=self.totals.device)
            self.episodes += 1
            if self.objects:
                ever = episode.ever_completed
                if ever is None or len(ever) != len(self.objects) or len(ever) > MAX_OBJECTS:
                    found = "none" if ever is None else f"{len(ever)} flags"
                    raise SettingError("data.env", f"{found} of completed objects", f"Expected {len(self.objects)}.")
                self.completed[: len(ever)] += torch.from_numpy(ever).to(self.completed)

    def compute(self) -> dict[str, Tensor]:
        """Means by name; empty where there was no episode.

        ``return``; ``success`` and ``success_last``, rates in [0, 1]; ``success_steps`` and ``length``, in steps.

        With objects also ``objects``, the mean number completed, and a rate ``object/<name>`` for each. With values
        also ``return_to_go``, the mean discounted return from a step on, ``value_bias``, how much more the critic says,
        and ``value_correlation``, Pearson's over all steps; the last two end in ``_cut`` where returns were cut short.
        """
        if self.episodes == 0:
            return {}
        means = (self.totals / self.episodes).float()
        computed = dict(zip(("return", "success", "success_last", "success_steps", "length"), means, strict=True))
        if self.objects:
            rates = (self.completed[: len(self.objects)] / self.episodes).float()
            computed["objects"] = rates.sum()
            for name, rate in zip(self.objects, rates, strict=True):
                computed[f"object/{name.replace(' ', '_')}"] = rate
        return computed | self._values()

    def _values(self) -> dict[str, Tensor]:
        n, q, g, qq, gg, qg, cut = self.values
        if n == 0:
            return {}
        spread_q, spread_g = qq - q * q / n, gg - g * g / n
        ending = "_cut" if cut > 0 else ""
        found = {"return_to_go": g / n, f"value_bias{ending}": (q - g) / n}
        if spread_q > 1e-9 * qq and spread_g > 1e-9 * gg:  # else a side is constant, up to rounding: no order to find
            found[f"value_correlation{ending}"] = (qg - q * g / n) / (spread_q * spread_g).sqrt()
        return {name: value.float() for name, value in found.items()}


def return_to_go(reward: np.ndarray, discount: float) -> np.ndarray:
    """G_t = r_t + discount * G_{t+1} of the rewards [T] that steps brought: float64 [T]."""
    found, after = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        found[t] = after = float(reward[t]) + discount * after
    return found
