"""What LOMPO and COMBO share: a Gaussian ensemble RSSM, a replay of latent transitions, twin critics, a policy.

The replay holds transitions between posterior states of real episodes, and of rollouts that the policy imagined from
such states. Critics and policy learn from it alone, half and half. It grows as a round begins and is never encoded
again, so its latents are those of the models that once were: as in the papers. (MOTO encodes and imagines at every
gradient step instead.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.nn.critic import QEnsemble
from moto_pl.nn.image import ConvActivation
from moto_pl.nn.mlp import MLP
from moto_pl.ops import (
    Key,
    LatentKind,
    LatentStd,
    Ops,
    Stream,
    integers,
    normal,
)
from moto_pl.replay.latents import LatentReplay, LatentTransitions, transition_bytes, whole_episodes
from moto_pl.replay.sampler import SequenceBatch

from .base import ActMode, Batch, BatchPart, RoundData
from .model_based import ModelBasedAgent, OptimConfig
from .model_free import td_loss

# Purposes that a step's key is folded with: each set of draws has its own.
_MODEL, _ENCODE, _STARTS, _IMAGINE, _REAL, _IMAGINED, PROPOSALS, _NOISE, _EPISODES = range(9)


@dataclass
class LatentModelConfig(WorldModelConfig):
    """The world model at LOMPO's sizes (MOTO's appendix C.3; LOMPO's public code).

    Attributes:
        latent: ``gaussian``.
        deter: D, size of the deterministic state.
        hidden: U, width of the RSSM's dense layers.
        stoch: S, number of latent variables.
        latent_std: ``softplus``.
        encoder_channels: channels of the encoder's convolutions.
        conv_activation: ``relu``.
        mlp_layers: dense layers after the encoder's convolutions.
        mlp_units: their width.
        decoder_mlp_layers: none; the linear layer that makes the decoder's 1x1 maps, of 1024 here, is LOMPO's only one.
        head_layers: hidden layers of the reward and discount heads.
        head_units: their width.
        kl_balance: null, the plain KL.
        free_nats: none.
    """

    latent: LatentKind = "gaussian"
    deter: int = 256
    hidden: int = 256
    stoch: int = 64
    latent_std: LatentStd = "softplus"
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    conv_activation: ConvActivation = "relu"
    mlp_layers: int = 1
    mlp_units: int = 1024
    decoder_mlp_layers: int | None = 0
    head_layers: int = 2
    head_units: int = 256
    kl_balance: float | None = None
    free_nats: float = 0.0

    def __post_init__(self) -> None:
        if self.latent != "gaussian":
            raise SettingError(
                "world_model.latent", self.latent, "LOMPO and COMBO have Gaussian latents; leave it out."
            )
        super().__post_init__()


@dataclass
class LatentBehaviourConfig:
    """Policy, critics, imagination and the latent replay (LOMPO's public code).

    Attributes:
        horizon: steps of an imagined rollout.
        replay: ``persistent`` is the papers': each episode is encoded once, by the model of the round that first sees
            it, and rollouts are added as each round begins; nothing is encoded again. ``fresh`` is ours: the replay is
            made anew as each round begins.
        replay_capacity: real transitions that are kept, and imagined ones, each; when a half is full, its oldest go.
        imagine_rows: rollouts that a round adds; null starts one in every posterior state of its ``replay_size``
            sequences, as in the papers. None starts where an episode has terminated.
        gamma: discount, in (0, 1].
        tau: share of the critics that their targets take over at each step.
        critic_layers: hidden layers of a critic.
        critic_units: their width.
        actor_layers: hidden layers of the policy.
        actor_units: their width.
        noise: standard deviation of the noise on the policy's actions, while it collects and in imagination.
    """

    horizon: int = 5
    replay: Literal["persistent", "fresh"] = "persistent"
    replay_capacity: int = 500_000
    imagine_rows: int | None = None
    gamma: float = 0.99
    tau: float = 0.005
    critic_layers: int = 3
    critic_units: int = 256
    actor_layers: int = 4
    actor_units: int = 256
    noise: float = 0.2

    def __post_init__(self) -> None:
        for name in ("horizon", "replay_capacity", "imagine_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SettingError(f"behaviour.{name}", getattr(self, name), "Give at least 1.")
        for name in ("gamma", "tau"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(f"behaviour.{name}", getattr(self, name), "Give a number in (0, 1].")
        if self.noise < 0:
            raise SettingError("behaviour.noise", self.noise, "Give a standard deviation, 0 or more.")


@dataclass
class LatentBatchConfig:
    """Sizes of a training batch, over all ranks, and of what a round adds to the replay.

    Attributes:
        model_size: sequences that train the world model.
        model_length: their rows.
        agent_size: real latent transitions that train critics and policy; as many imagined ones join them.
        replay_size: sequences of ``model_length`` rows in whose posterior states a round's rollouts start (``fresh``:
            they are its real half, too).
    """

    model_size: int = 64
    model_length: int = 50
    agent_size: int = 256
    replay_size: int = 64

    def __post_init__(self) -> None:
        for name, least in (("model_size", 1), ("model_length", 2), ("agent_size", 1), ("replay_size", 1)):
            if getattr(self, name) < least:
                raise SettingError(f"batch.{name}", getattr(self, name), f"Give at least {least}.")


@dataclass
class LatentOptimConfig(OptimConfig):
    """Learning rates and clip norms of the components.

    Attributes:
        model_lr: world model's learning rate.
        actor_lr: policy's.
        critic_lr: critics'.
        weight_decay: none: their sources have none.
    """

    model_lr: float = 6e-4
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4
    weight_decay: float = 0.0


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

    operators = ("observe",)
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
        self.replay = LatentReplay(self.config.replay_capacity)
        self._replay_round, self._encoded = -1, 0  # the last round that added to it, and episodes that it has seen
        self._manifest: dict[str, Any] | None = None  # of a checkpoint that is to be resumed
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
        return {"model": BatchPart(self.batch.model_size, self.batch.model_length, component="model")}

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

    def on_fit_start(self) -> None:
        """Says what the replay may come to, and reads back what a checkpoint names."""
        super().on_fit_start()
        if self.batch.agent_size % self.trainer.world_size:
            fix = f"Give a multiple of the {self.trainer.world_size} processes."
            raise SettingError("model.init_args.batch.agent_size", self.batch.agent_size, fix)
        config, root = self.config, Path(self.trainer.default_root_dir) / "latent_replay"
        assert self.facts is not None
        self.replay = LatentReplay(config.replay_capacity, root, self.facts.writes)
        each = transition_bytes(self.world_model.feature_size, cast(int, self.action_size))
        size = 2 * each * config.replay_capacity / 2**30
        rank_zero_info(
            f"latent replay: {config.replay}, up to {config.replay_capacity} real and as many imagined transitions "
            f"(model.init_args.behaviour.replay_capacity; then the oldest go): {size:.2f} GiB of each process's "
            "memory, and of disk for each of the run's checkpoints, as far as they name other latents"
        )
        if config.replay == "persistent" and self.schedule.trains(0) == "all":
            rank_zero_warn(
                "model.init_args.behaviour.replay: persistent with data.pretrain: joint: latents and rewards of a "
                "model that knows nothing yet stay in the replay. Set data.pretrain: model_first and data.model_steps."
            )
        if self._manifest is not None:
            self.replay.restore(self._manifest)
            self._manifest = None

    def begin_round(self, data: RoundData) -> None:
        """Adds to the replay, unless the run was resumed after that; see :meth:`Agent.begin_round`."""
        super().begin_round(data)
        number = self.schedule.round_of(self.global_step)
        if self._replay_round == number or self.schedule.trains(self.global_step) == "model":
            return
        sequences = data.common_batch("latent_replay", "model", self.batch.replay_size)
        key = Key(self.seed, self.global_step).fold(0x1A7E)
        if self.config.replay == "fresh":
            metrics = self.refresh_replay(sequences, key, number)
        else:
            frames = self.batch.model_size * self.batch.model_length
            episodes = whole_episodes(data.store, self._encoded, frames)
            metrics = self.extend_replay(episodes, sequences, key, number)
            self._encoded = len(data.store)
        self._replay_round = number
        for name, value in metrics.items():
            self.log(name, value, on_step=False, on_epoch=True, sync_dist=True)
        self._prune()

    @torch.no_grad()
    def refresh_replay(self, sequences: SequenceBatch, key: Key, number: int = 0) -> dict[str, Tensor]:
        """Makes the replay anew with the present model and policy.

        Args:
            sequences: [B, T], the real half, and where imagination starts.
            key: names the draws.
            number: of the round.

        Returns:
            Metrics of what was imagined.
        """
        self.replay.clear()
        real, starts = self.encode(sequences, key.fold(_ENCODE))
        self.replay.add("real", real, number)
        return self._add_rollouts(starts, key, number)

    @torch.no_grad()
    def extend_replay(
        self, episodes: Iterable[tuple[int, SequenceBatch]], sequences: SequenceBatch, key: Key, number: int = 0
    ) -> dict[str, Tensor]:
        """Adds what the present model makes of new episodes, and what the policy now imagines.

        Args:
            episodes: whole ones, as :func:`~moto_pl.replay.latents.whole_episodes` gives them.
            sequences: [B, T], where imagination starts.
            key: names the draws.
            number: of the round.

        Returns:
            Metrics of what was imagined.
        """
        new = []
        for first, batch in episodes:
            batch = SequenceBatch(*(part.to(self.device) for part in batch))
            new.append(self.encode(batch, key.fold(_EPISODES, first))[0].kept())
        if new:
            self.replay.add("real", LatentTransitions.join(new), number)
        _, starts = self.encode(sequences, key.fold(_ENCODE))
        return self._add_rollouts(starts, key, number)

    def _add_rollouts(self, starts: States, key: Key, number: int) -> dict[str, Tensor]:
        imagined, penalty = self.imagine(self._start_states(starts, key), key.fold(_IMAGINE))
        self.replay.add("imagined", imagined, number)
        return {"replay/reward": imagined.reward.mean() + penalty.mean(), "replay/penalty": penalty.mean()}

    def encode(self, batch: SequenceBatch, key: Key) -> tuple[LatentTransitions, States]:
        """The transitions of sequences [B, T], and their posterior states in which the episode goes on: [N, ...]."""
        states = self.world_model.observe(batch, key).states  # [T, B, ...]
        features = states.features
        inside = ~batch.is_first.T[1:]  # [T - 1, B]; row t + 1 holds what was done in row t's state
        real = LatentTransitions(
            state=features[:-1][inside],
            action=batch.action.transpose(0, 1)[1:][inside],
            reward=batch.reward.T[1:][inside],
            goes_on=1 - batch.is_terminal.T[1:][inside].float(),
            next_state=features[1:][inside],
        )
        return real, states.map(lambda x: x[~batch.is_terminal.T])

    def _start_states(self, states: States, key: Key) -> States:
        """All of the states [N, ...], or ``imagine_rows`` of them."""
        wanted, count = self.config.imagine_rows, len(states.deter)
        if wanted is None:
            return states
        rows = integers(key.fold(_STARTS), Stream.ROWS, count, (wanted,), states.deter.device)
        return states.map(lambda x: x[rows])

    @torch.no_grad()
    def imagine(self, start: States, key: Key) -> tuple[LatentTransitions, Tensor]:
        """Rolls the policy, with its noise, ``horizon`` steps through the model from ``start`` [B, ...].

        A drawn member makes each step. Returns the transitions and what their rewards were lessened by [N].
        """
        model, config = self.world_model, self.config
        shape = (config.horizon, len(start.deter), cast(int, self.action_size))
        noise = normal(key.fold(_NOISE), Stream.ACTION, shape, start.deter.device)
        act = lambda i, now: self._disturbed(self.policy(now.features), noise[i])  # noqa: E731
        states, action, prior = model.roll(start, act, config.horizon, key)
        after = states.map(lambda x: x[1:])  # [H, B, ...]
        penalty = self.penalty(prior, after.stoch)
        rollout = LatentTransitions(
            state=states.features[:-1],
            action=action,
            reward=model.predict_reward(after) - penalty,
            goes_on=model.predict_continuation(after),
            next_state=after.features,
        )
        return LatentTransitions(*(part.flatten(0, 1) for part in rollout)), penalty.flatten()

    def __getstate__(self) -> dict[str, Any]:
        """Without the replay: a process that collects needs the policy alone."""
        return {**super().__getstate__(), "replay": LatentReplay(self.config.replay_capacity)}

    def _prune(self) -> None:
        """Removes the latents that none of the run's checkpoints names any more."""
        if not self.replay.left_over():
            return
        checkpoints = sorted((Path(self.trainer.default_root_dir) / "checkpoints").glob("*.ckpt"))
        needed = []
        for path in checkpoints:
            # Mapped, so that no weights are read; a damaged one is judged where it is resumed from.
            try:
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                needed.append(found["latent_replay"]["manifest"])
            except Exception:
                return
        for path in self.replay.left_over(needed):
            path.unlink(missing_ok=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the replay's files: they are of models that no longer are."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["latent_replay"] = {
            "round": self._replay_round,
            "encoded": self._encoded,
            "manifest": self.replay.manifest(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers which files a resumed run has to read back."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["latent_replay"]
        self._replay_round, self._encoded, self._manifest = saved["round"], saved["encoded"], saved["manifest"]

    # Losses.

    def model_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The world model's on its sequences."""
        losses, metrics, _ = self.world_model.loss(batch["model"], key.fold(_MODEL))
        return losses, metrics

    def behaviour_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics' and policy's on this process's share of real and imagined transitions."""
        size = self.batch.agent_size // (1 if self._trainer is None else self.trainer.world_size)
        real = self.replay.real.pick(size, key.fold(_REAL), self.device)
        imagined = self.replay.imagined.pick(size, key.fold(_IMAGINED), self.device)
        return self.transition_losses(real, imagined, key)

    def transition_losses(
        self, real: LatentTransitions, imagined: LatentTransitions, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics' and policy's on these transitions together."""
        config, critic = self.config, self.critic
        data = LatentTransitions.join((real, imagined))
        q = critic(data.state, data.action)  # [2, B]
        with torch.no_grad():
            value = critic.target_min(data.next_state, self.policy(data.next_state))
            target = data.reward + config.gamma * data.goes_on * value  # [B]
        further, metrics = self.conservative_losses(data, q[:, : len(real.reward)], key.fold(PROPOSALS))
        gain = critic.actor_value(data.state, self.policy(data.state), "min")
        losses = {"critic/td": td_loss(q, target), "actor/value": -gain.mean(), **further}
        metrics |= {
            "critic/value": q.detach().mean(),
            "critic/target": target.mean(),
            "imagined/reward": imagined.reward.mean(),
        }
        return losses, metrics

    # Acting.

    @property
    def gamma(self) -> float:
        """See :meth:`Agent.gamma`."""
        return self.config.gamma

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor:
        """See :meth:`Agent.action_values`."""
        features = self.world_model.observe(batch, key).states.features[:-1, 0]  # [T, F]
        return self.critic.actor_value(features, batch.action[0, 1:], "min")

    def latent_action(self, features: Tensor, mode: ActMode, key: Key) -> Tensor:
        """The policy's action, with noise to collect; see :meth:`ModelBasedAgent.latent_action`."""
        action = self.policy(features)
        if mode == "mode":
            return action
        return self._disturbed(action, normal(key, Stream.ACTION, tuple(action.shape), action.device))

    def _disturbed(self, action: Tensor, noise: Tensor) -> Tensor:
        """The policy's actions with standard normal ``noise`` at its standard deviation, within [-1, 1]."""
        return (action + self.config.noise * noise).clamp(-1, 1)
