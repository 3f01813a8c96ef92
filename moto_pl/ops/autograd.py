"""The compiled operators' gradients: joins each to the operator of its backward pass.

In Python, where this is a third as long as in C++. Shapes for fake tensors
(``Meta``) stay in C++, where the function that allocates results gives them: here they would be written twice.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Any, ...]


@cache
def register(namespace: str) -> None:
    """Registers the gradients of the operators that ``torch.ops.<namespace>`` has."""
    operators = getattr(torch.ops, namespace)
    for name, make in _MAKERS.items():
        if hasattr(operators, name):
            backward, setup = make(getattr(operators, f"{name}_backward"))
            torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup)


def _imagine(operator: Any) -> tuple[Any, Any]:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, actor, cell, prior, *ctx.options, ctx.saves = inputs
        ctx.layers = len(actor)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[5:])
        ctx.save_for_backward(*output[:2], *output[5:], *actor, *cell, *prior)

    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        _need_saved("imagine", ctx)
        kept = ctx.saved_tensors
        saved, weights = kept[:9], kept[9:]
        actor, cell, prior = weights[: ctx.layers], weights[ctx.layers : ctx.layers + 5], weights[ctx.layers + 5 :]
        to_start, to_actor = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[2])
        deter, stoch, layers = operator(*grads[:5], saved, actor, cell, prior, *ctx.options, to_start, to_actor)
        start = (deter, stoch) if to_start else (None, None)
        # Cell, prior and the options have no gradient.
        return *start, layers if to_actor else [None] * ctx.layers, [None] * 5, [None] * 4, *[None] * 13

    return backward, setup


def _observe(operator: Any) -> tuple[Any, Any]:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, is_first, deter, stoch, weights, *ctx.options, ctx.saves = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[3:])
        ctx.save_for_backward(is_first, deter, stoch, *output, *weights)

    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        _need_saved("observe", ctx)
        kept = ctx.saved_tensors
        saved, weights = kept[:10], kept[10:]
        action, embed, deter, stoch, *layers = operator(*grads[:3], saved, weights, *ctx.options)
        return action, embed, None, deter, stoch, layers, *[None] * 8

    return backward, setup


def _need_saved(name: str, ctx: Any) -> None:
    if not ctx.saves:
        raise RuntimeError(f"moto::{name}: save must be true where a gradient is wanted")


def _lambda_return(operator: Any) -> tuple[Any, Any]:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, value, discount, ctx.lambda_ = inputs
        ctx.save_for_backward(value, discount, output)

    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return *operator(grad, *ctx.saved_tensors, ctx.lambda_), None

    return backward, setup


def _conv(operator: Any) -> tuple[Any, Any]:
    """Of ``conv`` and ``conv_transpose``, which differ in their options."""

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.options = inputs
        ctx.save_for_backward(x, weight, output)

    def backward(ctx: Any, grad: Tensor) -> Gradients:
        needs_input = ctx.needs_input_grad[0]
        x, weight, bias = operator(grad, *ctx.saved_tensors, *ctx.options, needs_input)
        return x if needs_input else None, weight, bias, *[None] * len(ctx.options)

    return backward, setup


def _squared_error(operator: Any) -> tuple[Any, Any]:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return operator(grad, *ctx.saved_tensors), None

    return backward, setup


_MAKERS = {
    "imagine": _imagine,
    "observe": _observe,
    "lambda_return": _lambda_return,
    "conv": _conv,
    "conv_transpose": _conv,
    "squared_error": _squared_error,
}
