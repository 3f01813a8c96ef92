"""Conservative Q-learning from pixels (Kumar et al., 2020): CQL(H) on SAC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.ops import Key, Stream, uniform

from .model_free import PixelConfig, TDConfig, Transitions
from .sac import SAC, EntropyConfig

_RANDOM, _CURRENT, _NEXT = range(16, 19)


@dataclass
class ConservatismConfig:
    """CQL(H)'s term.

    Attributes:
        scale: alpha, its weight (paper: 5).
        actions: actions drawn from each of the three sources (10, as in the authors' code).
    """

    scale: float = 5.0
    actions: int = 10

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise SettingError("conservatism.scale", self.scale, "Give 0 or more.")
        if self.actions < 1:
            raise SettingError("conservatism.actions", self.actions, "Give at least 1 action.")


class CQL(SAC):
    """SAC whose critics are pushed down where the data is not.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        entropy: the temperature and what it is tuned to; the targets leave the entropy out, as in the authors' code.
        conservatism: CQL(H)'s term.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        entropy: EntropyConfig | None = None,
        conservatism: ConservatismConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.conservatism = conservatism or ConservatismConfig()
        super().__init__(pixels, td, entropy or EntropyConfig(backup=False), seed, conservatism=self.conservatism)

    def critic_losses(
        self, data: Transitions, features: Tensor, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The temporal differences, and CQL(H)'s term."""
        losses, metrics = super().critic_losses(data, features, key)
        action, log_density = self._proposals(data, features, key)  # [3n, B, A], [3n, B]
        gap = conservative_gap(self.critic(features, action), log_density, self.critic(features, data.action))
        losses["critic/conservative"] = self.conservatism.scale * gap
        metrics["critic/gap"] = gap.detach()
        return losses, metrics

    @torch.no_grad()
    def _proposals(self, data: Transitions, features: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Uniform actions, and the policy's in the current and in the next states, with ln of their densities."""
        count = self.conservatism.actions
        size, dims = data.action.shape
        random = 2 * uniform(key.fold(_RANDOM), Stream.ACTION, (count, size, dims), data.action.device) - 1
        actions, densities = [random], [torch.full_like(random[..., 0], -dims * math.log(2))]
        for use, dist in ((_CURRENT, self.actor_dist(features)), (_NEXT, self.policy(data.next_image))):
            action, log_prob = dist.sample(self.noise(data.action, key.fold(use), count))
            actions.append(action)
            densities.append(log_prob)
        return torch.cat(actions), torch.cat(densities)


def conservative_gap(q: Tensor, log_density: Tensor, q_data: Tensor) -> Tensor:
    """Ln of the mean of exp Q over all actions, estimated by importance sampling, minus Q of the data's action.

    Args:
        q: of both critics for n proposed actions [2, n, B].
        log_density: ln of the density that each was drawn from [n, B].
        q_data: [2, B].

    Returns:
        The mean over the batch, summed over the critics.
    """
    soft = torch.logsumexp(q - log_density, 1) - math.log(q.shape[1])  # [2, B]
    return (soft - q_data).mean(-1).sum()
