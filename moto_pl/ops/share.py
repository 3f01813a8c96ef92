"""A process's share of what several take a gradient step on together.

Whatever is drawn for a step is drawn for the batch of all processes, and each takes its rows; whatever is not a plain
mean over rows is summed over all processes. So n processes compute what one would, up to rounding. Where there is but
one, nothing here does anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """Which rows of a common batch a process has: parts [begin, end) of ``of`` equal ones. All of it by default."""

    begin: int = 0
    end: int = 1
    of: int = 1

    @property
    def whole(self) -> bool:
        """Whether nobody else has any."""
        return self.end - self.begin == self.of

    @property
    def times(self) -> float:
        """How many times as many the common rows are; what a process's part of a sum counts for in a mean of means."""
        return self.of / (self.end - self.begin)

    def rows(self, count: int) -> tuple[int, int]:
        """The first of this process's ``count`` rows, counted over the common batch, and how many that has."""
        each = count // (self.end - self.begin)
        return self.begin * each, self.of * each


@torch.no_grad()
def total(x: Tensor, share: Share) -> Tensor:
    """The sum over processes, of tensors of one shape; without gradient."""
    if share.whole:
        return x
    x = x.detach().clone()
    torch.distributed.all_reduce(x)
    return x


@torch.no_grad()
def average(x: Tensor, share: Share) -> Tensor:
    """The mean over processes with equal shares; without gradient."""
    return x if share.whole else total(x, share) / share.times


def at_least(mean: Tensor, least: float, share: Share) -> Tensor:
    """The larger of a batch's mean and ``least``, whose gradient ends where that is the larger.

    Args:
        mean: of the rows that are the ``share`` of the batch.
        least: a number.
        share: processes with equal shares: the mean of what they return is what one would.
    """
    if share.whole:
        return mean.clamp(min=least)
    return torch.where(average(mean, share) >= least, mean, least)


def common_mean(x: Tensor, count: int, share: Share) -> Tensor:
    """The mean of the whole batch's ``count`` numbers, of which ``x`` are those that a process happens to have.

    The processes' mean of what they return is that mean.
    """
    return x.mean() if share.whole else share.times * x.sum() / count
