"""Multi-layer perceptrons: one, and several side by side."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.ops.imagine import mlp


class MLP(nn.Module):
    """``layers`` hidden layers of ``units`` with ELU, then a linear layer of ``out`` (none where ``out`` is None)."""

    def __init__(self, inputs: int, out: int | None, layers: int, units: int) -> None:
        super().__init__()
        sizes = [inputs] + [units] * layers + ([] if out is None else [out])
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        self.activate_last = out is None
        self.out_features = sizes[-1]
        self.apply(glorot)

    def weights(self, frozen: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Each layer's (weight, bias), as the ops take them; ``frozen``: without gradient."""
        pairs = [(cast(Tensor, layer.weight), cast(Tensor, layer.bias)) for layer in self.linears]
        return [(weight.detach(), bias.detach()) for weight, bias in pairs] if frozen else pairs

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """[..., inputs] -> [..., out]; ``frozen``: the gradient passes to ``x`` but not to the weights."""
        if not self.linears:
            return x
        x = mlp(x, self.weights(frozen))
        return F.elu(x) if self.activate_last else x


class EnsembleMLP(nn.Module):
    """Q independent MLPs as batched products on stacked weights [Q, in, out]."""

    def __init__(self, members: int, inputs: int, out: int, layers: int, units: int) -> None:
        super().__init__()
        sizes = [inputs] + [units] * layers + [out]
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        self.members = members
        self.kernels = nn.ParameterList(stacked_glorot(members, a, b) for a, b in pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, b)) for _, b in pairs)

    def forward(self, x: Tensor, frozen: bool = False, member: Tensor | None = None) -> Tensor:
        """Evaluates the members on the same input.

        Args:
            x: [..., inputs].
            frozen: the gradient passes to ``x`` but not to the weights.
            member: an index [1]; only this member is evaluated, and Q = 1 in the result.

        Returns:
            [Q, ..., out].
        """
        y = x.reshape(1, -1, x.shape[-1])
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if frozen:
                kernel, bias = kernel.detach(), bias.detach()
            if member is not None:
                kernel, bias = kernel[member], bias[member]
            y = torch.baddbmm(bias, (F.elu(y) if i else y).expand(kernel.shape[0], *y.shape[1:]), kernel)
        return y.reshape(y.shape[0], *x.shape[:-1], y.shape[-1])


def stacked_glorot(members: int, inputs: int, out: int) -> nn.Parameter:
    """[members, inputs, out], each member drawn as TensorFlow's (DreamerV2's) default draws a kernel."""
    bound = (6 / (inputs + out)) ** 0.5
    return nn.Parameter(torch.empty(members, inputs, out).uniform_(-bound, bound))


def glorot(module: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases, TensorFlow's (DreamerV2's) default."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def orthogonal(module: nn.Module) -> None:
    """Orthogonal kernels, times the square root of 2, and zero biases: JAXRL2's default."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.orthogonal_(module.weight, 2**0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
