"""What evaluation episodes come to, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from moto_pl.errors import SettingError
from moto_pl.replay.episode import EpisodeFigures

MAX_OBJECTS = 32


class EpisodeMetrics(Metric):
    """Means over episodes of return, success and length; each episode counts once, wherever it was rolled.

    Success is counted in three ways, because a policy may pass through success without staying there: ``success`` at
    any step, ``success_last`` at the episode's last step (the one that terminated it or at which it was cut off), and
    ``success_steps``, how many steps were in success.

    Where the task has objects, an episode's ``completed`` extra says at which steps each was in place; an object counts
    in an episode if it was in place at any step.

    Attributes:
        objects: names of the task's objects, in the order of the extra; empty where there are none.
    """

    full_state_update = False
    totals: Tensor
    completed: Tensor
    episodes: Tensor

    def __init__(self, objects: Iterable[str] = ()) -> None:
        super().__init__()
        self.objects = tuple(objects)
        self.add_state("totals", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("completed", torch.zeros(MAX_OBJECTS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("episodes", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

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

        With objects also ``objects``, the mean number completed, and a rate ``object/<name>`` for each.
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
        return computed
