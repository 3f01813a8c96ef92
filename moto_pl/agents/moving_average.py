"""The moving average of an agent's weights, which acts in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .param_groups import ParamGroup


class MovingAverage:
    """Of a module's trained parameters, each moved by the gradient steps that train it.

    From few demonstrations the success of a cloned policy jumps from one gradient step to the next, because small
    errors compound along an episode; that of the averaged weights does not.

    Attributes:
        decay: a gradient step, in [0, 1); 0 keeps no average.
        weights: by the parameter's name; empty before the first step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    def share(self, steps: int) -> float:
        """How far the ``steps``-th step (from 1) moves it, in [0, 1]: while it is young it is the mean of what was."""
        return 1 - min(self.decay, steps / (steps + 10))

    @torch.no_grad()
    def move(self, module: nn.Module, groups: Iterable[ParamGroup], shares: Mapping[str, float | Tensor]) -> None:
        """Moves the average of the groups that ``shares`` names towards their parameters; the others' stay."""
        parameters = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        if not self.weights:
            self.weights = {name: parameter.detach().clone() for name, parameter in parameters}
        moved = {p: shares[group.name] for group in groups if group.name in shares for p in group.parameters}
        for name, parameter in parameters:
            if parameter in moved:
                # A checkpoint is read before the module moves to its device.
                average = self.weights[name].to(parameter.device)
                self.weights[name] = average.lerp_(parameter, moved[parameter])

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Within it the module's parameters are their averages, if there are some."""
        parameters: list[Tensor] = [module.get_parameter(name) for name in self.weights]
        present = [parameter.detach().clone() for parameter in parameters]
        averages = [average.to(p.device) for average, p in zip(self.weights.values(), parameters, strict=True)]
        try:
            _copy(parameters, averages)
            yield
        finally:
            _copy(parameters, present)


@torch.no_grad()
def _copy(parameters: list[Tensor], values: list[Tensor]) -> None:
    if parameters:
        torch._foreach_copy_(parameters, values)
