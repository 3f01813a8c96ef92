"""What pulls at the actor, and which way: the gradient of each part of its loss."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import lightning as L
import torch
from torch import Tensor

from moto_pl.errors import SettingError


class ActorGradients(L.Callback):
    """Logs ``actor_gradient/<part>``, the norm of each part's gradient, and ``actor_gradient/cosine/<one>-<other>``.

    The parts are the agent's losses named ``actor/...`` (MOTO: ``value``, ``entropy_bonus``, ``clone``), with their
    weights. Where the norm of ``clone`` is many times that of ``value``, the policy learns by cloning, whatever the
    model says; a negative cosine says that they want different things.

    Each part costs a backward pass of its own through what it is made of, so it is done every so many steps: at 200,
    well under 1 % of the time.

    Args:
        every: gradient steps between measurements; 0 measures nothing.
    """

    def __init__(self, every: int = 200) -> None:
        if every < 0:
            raise SettingError("actor_gradients_every", every, "Give a number of gradient steps; 0 for none.")
        self.every = every

    def eager_at(self, step: int) -> bool:
        """Whether a measurement is due, for which a captured step would not do."""
        return bool(self.every) and step % self.every == 0

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Measures, where a measurement is due; the graph is kept for the step's own backward pass."""
        if not self.eager_at(trainer.global_step):
            return
        agent: Any = pl_module
        parts = {name.partition("/")[2]: part for name, part in agent.step_losses.items() if name.startswith("actor/")}
        modules = [module for group in agent.param_groups() if group.name == "actor" for module in group.modules]
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        gradients = {name: _gradient(part, parameters) for name, part in parts.items() if part.requires_grad}
        figures = {f"actor_gradient/{name}": gradient.norm() for name, gradient in gradients.items()}
        for one, other in combinations(gradients, 2):
            cosine = torch.nn.functional.cosine_similarity(gradients[one], gradients[other], dim=0)
            figures[f"actor_gradient/cosine/{one}-{other}"] = cosine
        # Not through the module, which would repeat them at each step until the next measurement.
        for logger in trainer.loggers if figures else ():
            logger.log_metrics({name: float(figure) for name, figure in figures.items()}, step=trainer.global_step)


def _gradient(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    """The loss's gradient, flat: [number of weights]."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([g.float().flatten() for g in flat])
