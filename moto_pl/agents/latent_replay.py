"""What LOMPO and COMBO share: a Gaussian ensemble RSSM, a replay of latent transitions, twin critics, a policy.

The replay holds transitions between posterior states of real episodes, and of rollouts that the policy imagined from
such states. It is made anew when a round begins; in between, critics and policy learn from it alone, half and half. So
the latents are those of the model as it was then. (MOTO encodes and imagines at every gradient step instead.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moto_pl.behaviour import QEnsemble
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.nn.mlp import MLP
from moto_pl.ops import (
    Key,
    LatentKind,
    Ops,
    Stream,
    integers,
    normal,
)
from moto_pl.replay.sampler import SequenceBatch

from .base import ActMode, Batch, BatchPart
from .model_based import ModelBasedAgent, OptimConfig
from .model_free import td_loss

# Purposes that a step's key is folded with: each set of draws has its own.
_MODEL, _ENCODE, _STARTS, _IMAGINE, _REAL, _IMAGINED, PROPOSALS = range(7)


@dataclass
class LatentModelConfig(WorldModelConfig):
    """The world model at LOMPO's sizes (MOTO's appendix C.3; LOMPO's public code).

    Attributes:
        latent: ``gaussian``.
        deter: D, size of the deterministic state.
        hidden: U, width of the RSSM's dense layers.
        stoch: S, number of latent variables.
        encoder_channels: channels of the encoder's convolutions.
        mlp_layers: dense layers after the encoder's and before the decoder's convolutions.
        mlp_units: their width.
    """

    latent: LatentKind = "gaussian"
    deter: int = 256
    hidden: int = 256
    stoch: int = 64
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    mlp_layers: int = 1
    mlp_units: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent != "gaussian":
            raise SettingError(
                "world_model.latent", self.latent, "LOMPO and COMBO have Gaussian latents; leave it out."
            )


@dataclass
class LatentBehaviourConfig:
    """Policy, critics, imagination. The papers leave the heads' sizes and the number of rollouts open.

    Attributes:
        horizon: steps of an imagined rollout.
        imagine_rows: rollouts of a replay, each from a real posterior state.
        gamma: discount, in (0, 1].
        tau: share of the critics that their targets take over at each step.
        critic_layers: hidden layers of a critic.
        critic_units: their width.
        actor_layers: hidden layers of the policy.
        actor_units: their width.
        noise: standard deviation of the noise on the policy's actions while it collects.
    """

    horizon: int = 5
    imagine_rows: int = 800
    gamma: float = 0.99
    tau: float = 0.005
    critic_layers: int = 2
    critic_units: int = 256
    actor_layers: int = 2
    actor_units: int = 256
    noise: float = 0.2

    def __post_init__(self) -> None:
        for name in ("horizon", "imagine_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"behaviour.{name}", getattr(self, name), "Give at least 1.")
        for name in ("gamma", "tau"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(f"behaviour.{name}", getattr(self, name), "Give a number in (0, 1].")
        if self.noise < 0:
            raise SettingError("behaviour.noise", self.noise, "Give a standard deviation, 0 or more.")


@dataclass
class LatentBatchConfig:
    """Sizes of a training batch, over all ranks, and of the replay's real half.

    Attributes:
        model_size: sequences that train the world model.
        model_length: their rows.
        agent_size: latent transitions that train critics and policy, half of them real.
        replay_size: sequences of ``model_length`` rows whose posterior states make the replay.
    """

    model_size: int = 64
    model_length: int = 50
    agent_size: int = 256
    replay_size: int = 64

    def __post_init__(self) -> None:
        for name, least in (("model_size", 1), ("model_length", 2), ("agent_size", 2), ("replay_size", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"batch.{name}", getattr(self, name), f"Give at least {least}.")


@dataclass
class LatentOptimConfig(OptimConfig):
    """Learning rates and clip norms of the components.

    Attributes:
        model_lr: world model's learning rate.
        actor_lr: policy's.
        critic_lr: critics'.
    """

    model_lr: float = 6e-4
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4


class LatentTransitions(NamedTuple):
    """N latent steps, without gradient.

    Attributes:
        state: features of where an action was taken [N, F].
        action: [N, A].
        reward: received for it [N]; predicted, and penalised, where the step was imagined.
        goes_on: float [N], 0 (or below 1) where the episode ended there.
        next_state: features of where it led [N, F].
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    goes_on: Tensor
    next_state: Tensor

    def pick(self, count: int, key: Key, device: torch.device) -> LatentTransitions:
        """``count`` transitions, drawn with replacement."""
        rows = integers(key, Stream.ROWS, len(self.reward), (count,), self.reward.device)
        return LatentTransitions(*(part[rows].to(device) for part in self))


class LatentReplay(NamedTuple):
    """What critics and policy learn from during a round."""

    real: LatentTransitions
    imagined: LatentTransitions


class LatentReplayAgent(ModelBasedAgent):
    """Learns a world model from sequences, and twin critics and a deterministic policy from its latent transitions.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: policy, critics, imagination.
        batch: sizes of a training batch and of the replay.
        optim: learning rates and clipping.
        ops: ``compiled`` or ``reference`` operators for observation; ``auto``: compiled where they were built.
        seed: keys initial weights and noise.
        settings: the subclass's further settings, for the checkpoint.
    """

    actor: MLP
    critic: QEnsemble

    def __init__(
        self,
        world_model: LatentModelConfig | None,
        behaviour: LatentBehaviourConfig | None,
        batch: LatentBatchConfig | None,
        optim: LatentOptimConfig | None,
        ops: Ops,
        seed: int,
        settings: dict[str, Any],
    ) -> None:
        super().__init__(optim or LatentOptimConfig(), ops, seed)
        self.model_config, self.config = world_model or LatentModelConfig(), behaviour or LatentBehaviourConfig()
        self.batch = batch or LatentBatchConfig()
        self.replay: LatentReplay | None = None
        self._replay_round = -1
        self.settings = {
            "world_model": self.model_config,
            "behaviour": self.config,
            "batch": self.batch,
            "optim": self.optim,
            "ops": ops,
            "seed": seed,
            **settings,
        }

    def parts(self) -> dict[str, BatchPart]:
        """The world model's sequences; the rest of a batch comes from the latent replay."""
        return {"model": BatchPart(self.batch.model_size, self.batch.model_length)}

    def build(self, action_size: int) -> None:
        """World model, policy and critics."""
        config = self.config
        self.world_model = WorldModel(self.model_config, action_size, self.ops, self.terminates)
        features = self.world_model.feature_size
        self.actor = MLP(features, action_size, config.actor_layers, config.actor_units)
        self.critic = QEnsemble(2, features, action_size, config.critic_layers, config.critic_units)

    def policy(self, features: Tensor) -> Tensor:
        """The action in states with ``features`` [..., F]: [..., A] in (-1, 1)."""
        return torch.tanh(self.actor(features).float())

    def after_step(self, step: int) -> None:
        """Moves the critics' targets by ``tau``."""
        self.critic.update_target(self.config.tau)

    # What makes LOMPO and COMBO two.

    def penalty(self, prior: Tensor, stoch: Tensor) -> Tensor:
        """What imagined rewards are lessened by: members' priors [K, ..., P], the samples [..., Z] -> [...]; zeros."""
        return stoch.new_zeros(stoch.shape[:-1])

    def conservative_losses(
        self, data: LatentTransitions, q_real: Tensor, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Further losses of the critics, and metrics: none. ``q_real`` [2, R] is theirs for the real transitions."""
        return {}, {}

    # The replay.

    def on_train_epoch_start(self) -> None:
        """Begins the round and makes its replay, which a run that is resumed in mid-round finds in its checkpoint."""
        super().on_train_epoch_start()
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if self._replay_round != datamodule.round:
            batch = datamodule.common_batch("latent_replay", "model", self.batch.replay_size)
            self.refresh_replay(batch, Key(self.seed, self.global_step).fold(0x1A7E))
            self._replay_round = datamodule.round

    @torch.no_grad()
    def refresh_replay(self, batch: SequenceBatch, key: Key) -> None:
        """Makes the replay anew with the present model and policy.

        Args:
            batch: sequences [B, T].
            key: names the draws.
        """
        states = self.world_model.observe(batch, key.fold(_ENCODE)).states  # [T, B, ...]
        features = states.features
        inside = ~batch.is_first.T[1:]  # [T - 1, B]; row t + 1 holds what was done in row t's state
        real = LatentTransitions(
            state=features[:-1][inside],
            action=batch.action.transpose(0, 1)[1:][inside],
            reward=batch.reward.T[1:][inside],
            goes_on=1 - batch.is_terminal.T[1:][inside].float(),
            next_state=features[1:][inside],
        )
        flat = states.map(lambda x: x.flatten(0, 1))
        rows = integers(key.fold(_STARTS), Stream.ROWS, len(flat.deter), (self.config.imagine_rows,), flat.deter.device)
        self.replay = LatentReplay(real, self.imagine(flat.map(lambda x: x[rows]), key.fold(_IMAGINE)))

    @torch.no_grad()
    def imagine(self, start: States, key: Key) -> LatentTransitions:
        """Rolls the policy ``horizon`` steps through the model from ``start`` [B, ...], a drawn member each step."""
        model = self.world_model
        states, action, prior = model.roll(start, lambda _, now: self.policy(now.features), self.config.horizon, key)
        after = states.map(lambda x: x[1:])  # [H, B, ...]
        rollout = LatentTransitions(
            state=states.features[:-1],
            action=action,
            reward=model.predict_reward(after) - self.penalty(prior, after.stoch),
            goes_on=model.predict_continuation(after),
            next_state=after.features,
        )
        return LatentTransitions(*(part.flatten(0, 1) for part in rollout))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the replay: it is of a model that no longer is."""
        super().on_save_checkpoint(checkpoint)
        if self.replay is not None:
            tables = {name: part._asdict() for name, part in self.replay._asdict().items()}
            checkpoint["latent_replay"] = {"round": self._replay_round, **tables}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the replay back."""
        super().on_load_checkpoint(checkpoint)
        if saved := checkpoint.get("latent_replay"):
            real, imagined = (LatentTransitions(**saved[name]) for name in LatentReplay._fields)
            self.replay, self._replay_round = LatentReplay(real, imagined), int(saved["round"])

    # Losses.

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The world model's on its sequences; critics' and policy's on the replay, once there is one."""
        losses, metrics, _ = self.world_model.loss(batch["model"], key.fold(_MODEL))
        if self.replay is None:  # held-out sequences before the first round
            return losses, metrics
        share = len(batch["model"].reward) / self.batch.model_size  # this process's
        size = max(2, round(self.batch.agent_size * share))
        behaviour_losses, behaviour_metrics = self.behaviour_losses(self.replay, size, key)
        return losses | behaviour_losses, metrics | behaviour_metrics

    def behaviour_losses(
        self, replay: LatentReplay, size: int, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics' and policy's on ``size`` transitions, half of them real."""
        config, critic = self.config, self.critic
        real = replay.real.pick(size // 2, key.fold(_REAL), self.device)
        imagined = replay.imagined.pick(size - size // 2, key.fold(_IMAGINED), self.device)
        data = LatentTransitions(*(torch.cat(parts) for parts in zip(real, imagined, strict=True)))
        q = critic(data.state, data.action)  # [2, B]
        with torch.no_grad():
            value = critic.target_min(data.next_state, self.policy(data.next_state))
            target = data.reward + config.gamma * data.goes_on * value  # [B]
        further, metrics = self.conservative_losses(data, q[:, : size // 2], key.fold(PROPOSALS))
        gain = critic.actor_value(data.state, self.policy(data.state), "min")
        losses = {"critic/td": td_loss(q, target), "actor/value": -gain.mean(), **further}
        metrics |= {
            "critic/value": q.detach().mean(),
            "critic/target": target.mean(),
            "imagined/reward": imagined.reward.mean(),
        }
        return losses, metrics

    # Acting.

    def latent_action(self, features: Tensor, mode: ActMode, key: Key) -> Tensor:
        """The policy's action, with noise to collect; see :meth:`ModelBasedAgent.latent_action`."""
        action = self.policy(features)
        if mode == "mode":
            return action
        noise = normal(key, Stream.ACTION, tuple(action.shape), action.device)
        return (action + self.config.noise * noise).clamp(-1, 1)
