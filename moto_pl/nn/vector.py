"""State vectors: normalised by the statistics of the demonstrations, and encoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import MLP

LIMIT = 10.0
"""Normalised numbers are clipped to [-LIMIT, LIMIT]: a joint that hardly moved in the demonstrations may move later."""


class Normalised(nn.Module):
    """``(vector - mean) / std``, clipped. Both are in the weights' file, and nothing trains them.

    Args:
        mean: of each of the V numbers.
        std: theirs, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, vector: Tensor) -> Tensor:
        """[..., V] -> [..., V]."""
        return ((vector - self.mean) / self.std).clamp(-LIMIT, LIMIT)


class VectorEncoder(nn.Module):
    """Normalises, then ``layers`` layers of ``units``.

    Args:
        mean: of each of the V numbers.
        std: theirs, above 0.
        layers: hidden layers; 0 gives the normalised numbers themselves.
        units: their width.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], layers: int, units: int) -> None:
        super().__init__()
        self.normalised = Normalised(mean, std)
        self.mlp = MLP(len(mean), None, layers, units)
        self.out_features = self.mlp.out_features

    def forward(self, vector: Tensor) -> Tensor:
        """[..., V] -> [..., embedding]."""
        encoded: Tensor = self.mlp(self.normalised(vector))
        return encoded
