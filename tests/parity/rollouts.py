"""Random models for the compiled ``imagine`` and ``observe`` to be compared with their references on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moto_pl.ops import CellWeights, Imagined, Key, LatentSpec, PosteriorWeights, PriorWeights

KEY = Key(3, (1 << 62) + 7)


class Sizes(NamedTuple):
    batch: int
    deter: int
    hidden: int
    members: int
    action: int
    actor: tuple[int, ...]
    steps: int


#: Odd sizes, one of everything, sizes of a vector's width and beyond it.
SIZES = [
    Sizes(4, 5, 7, 3, 2, (6, 9), 3),
    Sizes(1, 1, 1, 1, 1, (), 1),
    Sizes(1, 33, 18, 1, 1, (5,), 1),
    Sizes(3, 16, 32, 7, 4, (130,), 4),
    Sizes(2, 6, 4, 2, 3, (4,), 0),
]


def imagination(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Arguments of ``imagine``; the start states and the actor require gradients. Products come out of order one."""
    generator = torch.Generator().manual_seed(sum(sizes[:5]))

    def draw(*shape: int, fan_in: float = 4) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) / fan_in**0.5).to(dtype)

    batch, deter, hidden, members, action, actor, steps = sizes
    widths = [deter + latent.size, *actor, 2 * action]
    layers = [
        (draw(b, a, fan_in=a).requires_grad_(), draw(b).requires_grad_())
        for a, b in zip(widths[:-1], widths[1:], strict=True)
    ]
    prior = PriorWeights(
        draw(members, deter, hidden, fan_in=deter),
        draw(members, 1, hidden),
        2 * draw(members, hidden, latent.params, fan_in=hidden),
        draw(members, 1, latent.params),
    )
    return {
        "deter": torch.tanh(draw(batch, deter, fan_in=1)).requires_grad_(),
        "stoch": draw(batch, latent.size, fan_in=1).requires_grad_(),
        "actor": layers,
        "cell": cell(draw, latent, deter, hidden + 1, action),
        "prior": prior,
        "latent": latent,
        "key": KEY,
        "steps": steps,
    }


def cell(draw: Callable[..., Tensor], latent: LatentSpec, deter: int, units: int, action: int) -> CellWeights:
    return CellWeights(
        draw(units, latent.size + action, fan_in=latent.size),
        draw(units),
        draw(3 * deter, units + deter, fan_in=units + deter),
        1 + draw(3 * deter),
        draw(3 * deter),
    )


def observation(latent: LatentSpec, sizes: Sizes, dtype: torch.dtype = torch.float64, embed: int = 5) -> dict[str, Any]:
    """Arguments of ``observe``, all with gradients, with resets in the middle."""
    generator = torch.Generator().manual_seed(sum(sizes[:5]))

    def draw(*shape: int, fan_in: float = 4) -> Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) / fan_in**0.5).to(dtype)

    batch, deter, hidden, _, action, _, steps = sizes
    posterior = PosteriorWeights(
        draw(hidden, deter + embed, fan_in=deter + embed),
        draw(hidden),
        2 * draw(latent.params, hidden, fan_in=hidden),
        draw(latent.params),
    )
    return {
        "action": draw(steps, batch, action).requires_grad_(),
        "embed": draw(steps, batch, embed).requires_grad_(),
        "is_first": torch.rand(steps, batch, generator=generator) < 0.3,
        "deter": torch.tanh(draw(batch, deter, fan_in=1)).requires_grad_(),
        "stoch": draw(batch, latent.size, fan_in=1).requires_grad_(),
        "cell": CellWeights(*(w.requires_grad_() for w in cell(draw, latent, deter, hidden + 1, action))),
        "posterior": PosteriorWeights(*(w.requires_grad_() for w in posterior)),
        "latent": latent,
        "key": KEY,
    }


def leaves(arguments: dict[str, Any]) -> list[Tensor]:
    """The tensors that require gradients."""

    def walk(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value] if value.requires_grad else []
        if isinstance(value, dict):
            return [x for item in value.values() for x in walk(item)]
        return [x for item in value for x in walk(item)] if isinstance(value, tuple | list) else []

    return walk(arguments)


def loss(outputs: Imagined | tuple[Tensor, ...], fields: tuple[int, ...]) -> Tensor:
    """A random weighted sum of some of the outputs."""
    generator = torch.Generator().manual_seed(9)
    total = torch.zeros((), dtype=torch.float64)
    for index, output in enumerate(outputs):
        weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        if index in fields:
            total = total + (weight.to(output.device) * output).sum()
    return total


def gradients(arguments: dict[str, Any], outputs: tuple[Tensor, ...], fields: tuple[int, ...]) -> tuple[Tensor, ...]:
    wanted = leaves(arguments)
    return torch.autograd.grad(loss(outputs, fields), wanted, allow_unused=True, materialize_grads=True)
