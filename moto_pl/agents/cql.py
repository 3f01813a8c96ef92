"""Conservative Q-learning from pixels (Kumar et al., 2020): CQL(H) on SAC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from moto_pl.errors import check_least
from moto_pl.ops import Key, Stream, uniform

from .model_free import PixelConfig, Reduction, TDConfig, Transitions
from .presets import Preset, Values
from .sac import SAC, EntropyConfig

_RANDOM, _CURRENT, _NEXT = range(16, 19)


@dataclass
class ConservatismConfig:
    """CQL(H)'s term; null is the preset's value.

    Attributes:
        scale: alpha, the term's weight, 0 or more (paper: 5).
        actions: actions drawn from each source, 1 or more: the uniform distribution and the policy in the current
            state.
        next_state: whether the policy in the next state is a third source.
    """

    scale: float = 5.0
    actions: int | None = None
    next_state: bool | None = None

    def __post_init__(self) -> None:
        check_least("conservatism", self, scale=0, actions=1)


class CQL(SAC):
    """SAC whose critics are pushed down where the data is not.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        entropy: the temperature and what it is tuned to.
        actor_value: which of the critics' two values the actor maximises; null is the preset's.
        conservatism: CQL(H)'s term.
        preset: what settings that are null become.
        seed: keys initial weights and noise.
    """

    # JAXRL2 has no CQL: this is its SAC, with targets and proposals as CQL's own authors have them.
    PRESETS: ClassVar[dict[Preset, Values]] = {
        "paper": {**SAC.PRESETS["paper"], "conservatism.actions": 4, "conservatism.next_state": False},
        "jaxrl2": {
            **SAC.PRESETS["jaxrl2"],
            "td.target_value": "min",
            "entropy.backup": False,
            "conservatism.actions": 10,
            "conservatism.next_state": True,
        },
    }

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        entropy: EntropyConfig | None = None,
        actor_value: Reduction | None = None,
        conservatism: ConservatismConfig | None = None,
        preset: Preset = "paper",
        seed: int = 0,
    ) -> None:
        conservatism = conservatism or ConservatismConfig()
        super().__init__(pixels, td, entropy, actor_value, preset, seed, conservatism=conservatism)
        self.conservatism: ConservatismConfig = self.settings["conservatism"]

    def critic_losses(
        self, data: Transitions, features: Tensor, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The temporal differences, and CQL(H)'s term."""
        losses, metrics = super().critic_losses(data, features, key)
        action, log_density = self._proposals(data, features, key)  # [n, B, A], [n, B]
        gap = conservative_gap(self.critic(features, action), log_density, self.critic(features, data.action))
        losses["critic/conservative"] = self.conservatism.scale * gap
        metrics["critic/gap"] = gap.detach()
        return losses, metrics

    @torch.no_grad()
    def _proposals(self, data: Transitions, features: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Uniform actions, and the policy's in the current and, where asked, the next states; ln of their densities."""
        count = cast(int, self.conservatism.actions)
        size, dims = data.action.shape
        shape, like = (count, size, dims), data.action
        random = 2 * uniform(key.fold(_RANDOM), Stream.ACTION, shape, like.device, like.dtype, rows=1) - 1
        actions, densities = [random], [torch.full_like(random[..., 0], -dims * math.log(2))]
        policies = [(_CURRENT, self.policy(data.image, features))]
        if self.conservatism.next_state:
            policies.append((_NEXT, self.policy(data.next_image)))
        for use, dist in policies:
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
