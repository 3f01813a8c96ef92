"""What agents with a world model share: three components to optimise, and acting in filtered latent states."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.ops import Key, Ops
from moto_pl.ops.extension import compiled_products, status, use_compiled
from moto_pl.schedule import Components

from .base import ActMode, Agent, Batch, ParamGroup, RoundData


@dataclass
class OptimConfig:
    """Learning rates and clip norms of the components.

    Attributes:
        model_lr: world model's learning rate.
        actor_lr: actor's.
        critic_lr: critics'.
        clip: largest gradient norm of each component.
        weight_decay: share of every weight that a gradient step takes away, whatever the learning rate (DreamerV2's):
            w <- (1 - weight_decay) w.
        adam_eps: Adam's epsilon.
        final_lr: share of the learning rates that is left when the online phase ends; they fall linearly over it.
        ema_decay: decay, a gradient step, of the moving average of the weights that collects and is evaluated; 0 acts
            with the weights themselves, as the paper does.
    """

    model_lr: float = 1e-4
    actor_lr: float = 8e-5
    critic_lr: float = 8e-5
    clip: float = 100.0
    weight_decay: float = 1e-6
    adam_eps: float = 1e-5
    final_lr: float = 1.0
    ema_decay: float = 0.0


class ActingState(NamedTuple):
    """Latent state of each environment and the last action that it executed."""

    states: States  # [n, ...]
    action: Tensor  # [n, A]


class ModelBasedAgent(Agent):
    """An agent with a world model, an actor and a critic on its latent states.

    Args:
        optim: learning rates and clipping.
        ops: which operators imagine and observe.
        seed: keys initial weights and noise.
    """

    has_world_model = True
    #: Operators that training calls.
    operators: tuple[str, ...] = ("imagine", "observe")
    model_config: WorldModelConfig
    world_model: WorldModel
    actor: nn.Module
    critic: nn.Module

    def __init__(self, optim: OptimConfig, ops: Ops, seed: int) -> None:
        super().__init__(seed, optim.weight_decay, optim.adam_eps, optim.final_lr, optim.ema_decay)
        self.optim, self.ops = optim, ops
        self._warned_of_ends = False

    def param_groups(self) -> list[ParamGroup]:
        """World model, actor, critics."""
        optim = self.optim
        return [
            ParamGroup("model", (self.world_model,), optim.model_lr, optim.clip, "model"),
            ParamGroup("actor", (self.actor,), optim.actor_lr, optim.clip),
            ParamGroup("critic", (self.critic,), optim.critic_lr, optim.clip),
        ]

    @abstractmethod
    def model_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The world model's weighted losses, and metrics."""

    @abstractmethod
    def behaviour_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Actor's and critics' weighted losses, and metrics; none moves the world model."""

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """World model, critics and actor, each with its own part of the batch."""
        return self.losses_of("all", batch, key)

    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See :meth:`Agent.losses_of`."""
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for component, of in (("model", self.model_losses), ("behaviour", self.behaviour_losses)):
            if components in ("all", component):
                more_losses, more_metrics = of(batch, key)
                losses |= more_losses
                metrics |= more_metrics
        return losses, metrics

    def on_fit_start(self) -> None:
        """Says which operators train; refuses ``ops: compiled`` where there are none before anything runs."""
        state, unknown = torch.empty(0, device=self.device), self.world_model.latent.uncompiled
        built = use_compiled(self.ops, self.device)
        form = "compiled operators train"
        if not built or compiled_products("observe", self.ops, state, unknown) is None:
            form = f"plain-PyTorch references {' and '.join(self.operators)}"
        why = f" (compiled operators do not know world_model.{unknown})" if built and unknown else ""
        rank_zero_info(f"ops: {self.ops}: the {form} on {self.device}{why}. {status()}")
        if self.model_config.discount_head == "auto":
            found = "some demonstrations end" if self.world_model.discount else "no demonstration ends"
            rank_zero_info(f"discount head: {'on' if self.world_model.discount else 'off'} (auto): {found} early")

    # The discount head, which is there or not as the demonstrations say.

    def description(self) -> dict[str, Any]:
        """See :meth:`Agent.description`; with ``discount_head`` as it was decided, once the networks are made."""
        found = super().description()
        if hasattr(self, "world_model"):
            found["init_args"]["world_model"]["discount_head"] = self.world_model.discount is not None
        return found

    def adopt(self, description: dict[str, Any]) -> None:
        """Builds again where the run decided otherwise about the discount head; see :meth:`Agent.adopt`."""
        undecided = self.model_config.discount_head == "auto"
        decided = description.get("init_args", {}).get("world_model", {}).get("discount_head")
        if undecided and isinstance(decided, bool) and decided != (self.world_model.discount is not None):
            self.terminates = decided
            self.build(int(self.action_size or 0))

    def begin_round(self, data: RoundData) -> None:
        """Warns once of an episode that ended early where nothing predicts ends; see :meth:`Agent.begin_round`."""
        if self.world_model.discount is None and not self._warned_of_ends and data.collected_end_early:
            self._warned_of_ends = True
            rank_zero_warn(
                "Collected episodes end early, and the model does not predict that, because no demonstration does: "
                "imagined returns go on beyond it. In a new run, set model.init_args.world_model.discount_head: true."
            )

    # Acting.

    @abstractmethod
    def latent_action(self, features: Tensor, mode: ActMode, key: Key) -> Tensor:
        """The policy's actions in latent states with ``features`` [n, F], to collect or to evaluate: [n, A]."""

    def initial_state(self, count: int) -> ActingState:
        """Zero latent states and actions."""
        deter, stoch = self.world_model.rssm.initial(count)
        return ActingState(States(deter, stoch), deter.new_zeros(count, cast(int, self.action_size)))

    @torch.no_grad()
    def act(
        self, image: Tensor, is_first: Tensor, state: ActingState, mode: ActMode, key: Key
    ) -> tuple[Tensor, ActingState]:
        """Filters the frame into the latent state and asks the policy there; see :meth:`Agent.act`."""
        states = self.world_model.step(state.states, state.action, image, is_first, key)
        action = self.latent_action(states.features, mode, key)
        return action, ActingState(states, action)

    def executed(self, state: ActingState, action: Tensor) -> ActingState:
        """The next frame is filtered with the action that led to it; see :meth:`Agent.executed`."""
        return state._replace(action=action.to(state.action))
