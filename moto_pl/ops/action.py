"""The policy's distribution on actions in [-1, 1]."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full

ActionKind = Literal["trunc_normal", "tanh_normal"]
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_SQRT_2 = math.sqrt(2)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / _SQRT_2)


def _pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x - _LOG_SQRT_2PI)


class ActionDist:
    """A batch of independent action distributions, from the actor's raw output.

    ``trunc_normal`` (DreamerV2): a normal with mean ``tanh(m)`` and std ``2 * sigmoid(s / 2) + min_std``, truncated to
    [-1, 1]. ``tanh_normal``: ``tanh`` of a normal with mean ``5 * tanh(m / 5)`` and the same std.

    Args:
        raw: [..., 2A], the network's means and stds before squashing.
        kind: which of the two.
        min_std: lower bound of the std, > 0.
    """

    def __init__(self, raw: Tensor, kind: ActionKind = "trunc_normal", min_std: float = 0.1) -> None:
        mean, std = full(raw).chunk(2, -1)
        self.kind = kind
        self.mean = torch.tanh(mean) if kind == "trunc_normal" else 5 * torch.tanh(mean / 5)
        self.std = 2 * torch.sigmoid(std / 2) + min_std

    def mode(self) -> Tensor:
        """The likeliest action (for ``tanh_normal``, the median): [..., A]."""
        return self.mean if self.kind == "trunc_normal" else torch.tanh(self.mean)

    def expected(self) -> Tensor:
        """The mean action, of ``trunc_normal`` alone: [..., A]; nearer to 0 than the mode, the more so the wider."""
        low, high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        # By erf, which exported policies have; the mode lies inside, so that the mass is never small.
        mass = 0.5 * (torch.erf(high / _SQRT_2) - torch.erf(low / _SQRT_2))
        return (self.mean + self.std * (_pdf(low) - _pdf(high)) / mass).clamp(-1, 1)

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample from uniform ``noise`` [..., A] in (0, 1): [..., A] in [-1, 1]."""
        if self.kind == "tanh_normal":
            return torch.tanh(self.mean + self.std * torch.special.ndtri(noise))
        low, high = _cdf((-1 - self.mean) / self.std), _cdf((1 - self.mean) / self.std)
        # The clamp keeps the quantile finite where float32 rounds the probability to 0 or 1.
        quantile = (low + noise * (high - low)).clamp(1e-6, 1 - 1e-6)
        return (self.mean + self.std * torch.special.ndtri(quantile)).clamp(-1, 1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Ln of the density at ``action`` [..., A] in [-1, 1], summed over A: [...]."""
        if self.kind == "tanh_normal":
            action = action.clamp(-1 + 1e-4, 1 - 1e-4)  # the density is unbounded at the edges, where data may lie
            x = torch.atanh(action)
            squash = 2 * (math.log(2) - x - F.softplus(-2 * x))
            return (self._normal_log_prob(x) - squash).sum(-1)
        return (self._normal_log_prob(action) - self._mass().log()).sum(-1)

    def entropy(self, noise: Tensor) -> Tensor:
        """Entropy in nats, summed over A: [...]. Exact for ``trunc_normal``; one-sample for ``tanh_normal``."""
        if self.kind == "tanh_normal":
            return -self.log_prob(self.sample(noise))
        low, high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        mass = self._mass()
        edge = (low * _pdf(low) - high * _pdf(high)) / (2 * mass)
        return (_LOG_SQRT_2PI + 0.5 + self.std.log() + mass.log() + edge).sum(-1)

    def _mass(self) -> Tensor:
        return _cdf((1 - self.mean) / self.std) - _cdf((-1 - self.mean) / self.std)

    def _normal_log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.mean) / self.std).square() - self.std.log() - _LOG_SQRT_2PI
