"""Policies of the model-free agents, on features of stacked frames."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moto_pl.ops import full

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class SquashedNormal:
    """``tanh`` of a normal whose mean and log-std are a network's output, the log-std within -20 and 2 (SAC).

    Args:
        raw: [..., 2A].
    """

    def __init__(self, raw: Tensor) -> None:
        self.mean, log_std = full(raw).chunk(2, -1)
        self.log_std = log_std.clamp(-20.0, 2.0)

    def mode(self) -> Tensor:
        """The median action [..., A]."""
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions [..., A] from standard normal ``noise``, and ln of their density [...]."""
        x = self.mean + self.log_std.exp() * noise
        # From x, not from the action: where tanh is flat the action has forgotten it.
        squash = 2 * (math.log(2) - x - F.softplus(-2 * x))
        log_prob = -0.5 * noise.square() - self.log_std - _LOG_SQRT_2PI - squash
        return torch.tanh(x), log_prob.sum(-1)


class BoundedNormal:
    """A normal with a std that does not depend on the state; what it does is clipped to [-1, 1].

    Args:
        mean: [..., A].
        log_std: [A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = full(mean)
        self.log_std = log_std

    def mode(self) -> Tensor:
        """The mean [..., A] in [-1, 1]."""
        return self.mean.clamp(-1, 1)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., A] in [-1, 1] from standard normal ``noise``."""
        return (self.mean + self.log_std.exp() * noise).clamp(-1, 1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Ln of the normal's density, before clipping, at ``action`` [..., A], summed over A: [...]."""
        standard = (action - self.mean) / self.log_std.exp()
        return (-0.5 * standard.square() - self.log_std - _LOG_SQRT_2PI).sum(-1)
