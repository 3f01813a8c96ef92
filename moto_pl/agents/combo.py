"""COMBO: conservative offline model-based policy optimisation (Yu et al., 2021), on LOMPO's latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moto_pl.ops import Key, Ops, Stream, uniform
from moto_pl.replay.latents import LatentTransitions

from .cql import ConservatismConfig
from .latent_replay import LatentReplayAgent
from .model_based import Named
from .settings import LatentBatchConfig, LatentBehaviourConfig, LatentModelConfig, LatentOptimConfig


@dataclass
class LatentConservatismConfig(ConservatismConfig):
    """COMBO's term.

    Attributes:
        scale: alpha, the term's weight, 0 or more (paper: 2.5).
        actions: uniform actions in the term, 1 or more, beside the policy's own (16, as in LOMPO's public code).
    """

    scale: float = 2.5
    actions: int = 16


class COMBO(LatentReplayAgent):
    """Latent replay without penalty; the critics are pushed down on the policy's actions, up on the data's.

    The states of the term's first half are those of the whole batch, real and imagined.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: policy, critics, imagination.
        batch: sizes of a training batch and of the replay.
        optim: learning rates and clipping.
        conservatism: the term's weight and actions.
        ops: ``compiled`` or ``reference`` operators for observation; ``auto``: compiled where they were built.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        world_model: LatentModelConfig | None = None,
        behaviour: LatentBehaviourConfig | None = None,
        batch: LatentBatchConfig | None = None,
        optim: LatentOptimConfig | None = None,
        conservatism: LatentConservatismConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        self.conservatism = conservatism or LatentConservatismConfig()
        super().__init__(world_model, behaviour, batch, optim, ops, seed, {"conservatism": self.conservatism})

    def behaviour_scales(self) -> dict[str, float]:
        """See :meth:`ModelBasedAgent.behaviour_scales`."""
        return {**super().behaviour_scales(), "critic/conservative": self.conservatism.scale}

    def conservative_losses(self, data: LatentTransitions, q_real: Tensor, key: Key) -> tuple[Named, Named]:
        """Ln-sum-exp of Q over proposed actions, minus Q of the real transitions (COMBO, Eq. 4)."""
        halves = data.action.unflatten(0, (2, -1))  # real, imagined: of each a process has its rows
        shape = (self.conservatism.actions, *halves.shape)
        random = 2 * uniform(key, Stream.ACTION, shape, halves.device, halves.dtype, rows=2).flatten(1, 2) - 1
        action = torch.cat((random, self.policy(data.state).detach().unsqueeze(0)))  # [n + 1, N, A]
        q = self.critic(data.state.expand(len(action), *data.state.shape), action)  # [2, n + 1, N]
        gap = soft_gap(q, q_real)
        return {"critic/conservative": gap}, {"critic/gap": gap.detach()}


def soft_gap(q: Tensor, q_real: Tensor) -> Tensor:
    """Mean over states of ln-sum-exp over actions of ``q`` [2, n, N], less the mean of ``q_real`` [2, R]; summed."""
    return (torch.logsumexp(q, 1).mean(-1) - q_real.mean(-1)).sum()
