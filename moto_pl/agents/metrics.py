"""What evaluation episodes come to, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from moto_pl.replay.episode import Episode


class EpisodeMetrics(Metric):
    """Means over episodes of return, success and length; each episode counts once, wherever it was rolled."""

    full_state_update = False
    totals: Tensor
    episodes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("episodes", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, episodes: Iterable[Episode]) -> None:
        """Adds episodes."""
        for episode in episodes:
            row = [episode.total_reward, float(episode.succeeded), float(episode.length)]
            self.totals += torch.tensor(row, dtype=torch.float64, device=self.totals.device)
            self.episodes += 1

    def compute(self) -> dict[str, Tensor]:
        """``return``, ``success`` (a rate in [0, 1]) and ``length``; empty where there was no episode."""
        if self.episodes == 0:
            return {}
        means = (self.totals / self.episodes).float()
        return {"return": means[0], "success": means[1], "length": means[2]}
