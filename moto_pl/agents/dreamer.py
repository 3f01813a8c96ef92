"""DreamerV2 (Hafner et al., 2021), as MOTO is measured against it."""

from __future__ import annotations

from moto_pl.nn import WorldModelConfig
from moto_pl.nn.actor_critic import ValueCritic, trajectory_weights
from moto_pl.ops import Key, Ops
from moto_pl.schedule import Components

from .base import Batch
from .model_based import MODEL, ImaginationAgent, Named, rollout_metrics, scaled
from .settings import BatchConfig, ImaginationConfig, OptimConfig


class DreamerV2(ImaginationAgent):
    """MOTO's model and hyperparameters; imagined returns without penalty, a single state value, nothing cloned.

    It also learns from scratch: ``--data.dataset null --data.offline_steps 0``.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: actor, critic, imagination.
        batch: sizes of a training batch; nothing is cloned.
        optim: learning rates and clipping.
        ops: as in MOTO.
        seed: keys initial weights and noise.
    """

    critic: ValueCritic

    def __init__(
        self,
        world_model: WorldModelConfig | None = None,
        behaviour: ImaginationConfig | None = None,
        batch: BatchConfig | None = None,
        optim: OptimConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(world_model, behaviour or ImaginationConfig(), batch, optim, ops, seed)

    def build(self, action_size: int) -> None:
        """World model, actor and critic."""
        super().build(action_size)
        self.critic = ValueCritic(self.world_model.feature_size, self.config.critic_layers, self.config.critic_units)

    def behaviour_scales(self) -> dict[str, float]:
        """See :meth:`ModelBasedAgent.behaviour_scales`."""
        return {"critic/model": 1.0, "actor/value": 1.0, "actor/entropy_bonus": self.config.entropy_scale}

    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[Named, Named]:
        """A gradient step lessens the sum of these, each times its scale; see :meth:`ModelBasedAgent.losses_of`."""
        losses: Named = {}
        metrics: Named = {}
        if components != "behaviour":
            losses, metrics = self.world_model.loss(batch["model"], key.fold(MODEL))  # Eq. 2
        if components != "model":
            starts = self.draw_starts(batch["agent"], key)
            rollout = self.imagine(starts.states, key)
            reward, discount = self.earned(rollout)  # [H, N]
            weights = trajectory_weights(discount.detach(), starts.goes_on)  # [H + 1, N]
            found, figures = self.state_value_losses(rollout, reward, discount, weights)  # Eq. 4 to 6
            losses |= found
            metrics |= rollout_metrics(rollout, reward, key.share) | figures
        return scaled(losses, self.scales(components)), metrics
