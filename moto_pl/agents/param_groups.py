"""The parameters of a component: what they learn with, and how their gradient is clipped."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from moto_pl.schedule import Component


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate and are clipped together."""

    name: str
    modules: tuple[nn.Module, ...]
    lr: float
    clip: float
    component: Component = "behaviour"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return _trained(self.modules)


@dataclass(frozen=True)
class Clipping:
    """Parameters whose gradient is clipped together, to the norm ``limit``."""

    name: str
    modules: tuple[nn.Module, ...]
    limit: float

    def clip(self) -> Tensor:
        """Clips; returns the norm before that."""
        return nn.utils.clip_grad_norm_(_trained(self.modules), self.limit, foreach=True)


def _trained(modules: tuple[nn.Module, ...]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]
