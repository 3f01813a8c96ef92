"""What LOMPO and COMBO share: a Gaussian ensemble RSSM, a replay of latent transitions, twin critics, a policy.

The replay holds transitions between posterior states of real episodes, and of rollouts that the policy imagined from
such states. Critics and policy learn from it alone, half and half. It grows as a round begins and is never encoded
again, so its latents are those of the models that once were: as in the papers. (MOTO encodes and imagines at every
gradient step instead.)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel
from moto_pl.nn.actor_critic import QEnsemble
from moto_pl.nn.mlp import MLP
from moto_pl.ops import Key, Ops, Stream, full, integers, normal
from moto_pl.replay.latents import LatentReplay, LatentTransitions, transition_bytes, whole_episodes
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Components

from .base import ActMode, Batch, BatchPart, RoundData
from .model_based import MODEL, ModelBasedAgent, Named, scaled
from .model_free import td_loss
from .settings import LatentBatchConfig, LatentBehaviourConfig, LatentModelConfig, LatentOptimConfig

# Purposes that a step's key is folded with: each set of draws has its own.
_ENCODE, _STARTS, _IMAGINE, _REAL, _IMAGINED, PROPOSALS, _NOISE, _EPISODES = range(1, 9)  # MODEL is 0


class LatentReplayAgent(ModelBasedAgent):
    """Learns a world model from sequences, and twin critics and a deterministic policy from its latent transitions.

    Args:
        settings: the subclass's further settings, for the checkpoint.
    """

    operators = ("observe",)
    config: LatentBehaviourConfig
    batch: LatentBatchConfig
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
        super().__init__(
            world_model or LatentModelConfig(),
            behaviour or LatentBehaviourConfig(),
            batch or LatentBatchConfig(),
            optim or LatentOptimConfig(),
            ops,
            seed,
        )
        self.settings |= settings
        self.replay = LatentReplay(self.config.replay_capacity)
        self._replay_round, self._encoded = -1, 0  # the last round that added to it, and episodes that it has seen
        self._manifest: dict[str, Any] | None = None  # of a checkpoint that is to be resumed

    def parts(self) -> dict[str, BatchPart]:
        """The world model's sequences; the rest of a batch comes from the latent replay."""
        return {"model": BatchPart(self.batch.model_size, self.batch.model_length, component="model")}

    def build(self, action_size: int) -> None:
        """World model, policy and critics."""
        config = self.config
        self.world_model = WorldModel(self.model_config, action_size, self.ops, self.terminates, self.observation)
        features = self.world_model.feature_size
        self.actor = MLP(features, action_size, config.actor_layers, config.actor_units)
        self.critic = QEnsemble(2, features, action_size, config.critic_layers, config.critic_units)

    def policy(self, features: Tensor) -> Tensor:
        """The action in states with ``features`` [..., F]: [..., A] in (-1, 1)."""
        return torch.tanh(full(self.actor(features)))

    def after_step(self, step: int) -> None:
        """Moves the critics' targets by ``tau``."""
        self.critic.update_target(self.config.tau)

    # What makes LOMPO and COMBO two.

    def penalty(self, prior: Tensor, stoch: Tensor) -> Tensor:
        """What imagined rewards are lessened by: members' priors [K, ..., P], the samples [..., Z] -> [...]; zeros."""
        return stoch.new_zeros(stoch.shape[:-1])

    def conservative_losses(self, data: LatentTransitions, q_real: Tensor, key: Key) -> tuple[Named, Named]:
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
            seen = batch.map(lambda part: part.to(self.device))
            new.append(self.encode(seen, key.fold(_EPISODES, first))[0].kept())
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
        """Rolls the policy, with its noise, ``horizon`` steps through the model from ``start`` [N, ...].

        A drawn member makes each step. Returns the H * N transitions and what their rewards were lessened by [H * N].
        """
        model, config = self.world_model, self.config
        shape = (config.horizon, len(start.deter), cast(int, self.action_size))
        noise = normal(key.fold(_NOISE), Stream.ACTION, shape, start.deter.device)
        act = lambda i, now: self._disturbed(self.policy(now.features), noise[i])  # noqa: E731
        states, action, prior = model.roll(start, act, config.horizon, key)
        after = states.map(lambda x: x[1:])  # [H, N, ...]
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

    def behaviour_scales(self) -> dict[str, float]:
        """See :meth:`ModelBasedAgent.behaviour_scales`."""
        return {"critic/td": 1.0, "actor/value": 1.0}

    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[Named, Named]:
        """The world model's on its sequences; critics' and policy's on this process's share of the latent replay."""
        losses: Named = {}
        metrics: Named = {}
        if components != "behaviour":
            losses, metrics = self.world_model.loss(batch["model"], key.fold(MODEL))
        if components != "model":
            drawn: Any = batch if "real" in batch else self.drawn_on_host(components, batch, key)
            more, figures = self.transition_losses(drawn["real"], drawn["imagined"], key)
            losses |= more
            metrics |= figures
        return scaled(losses, self.scales(components)), metrics

    def drawn_on_host(self, components: Components, batch: Batch, key: Key) -> Batch:
        """Adds this process's share of the latent replay; see :meth:`Agent.drawn_on_host`."""
        if components == "model":
            return batch
        size = self.batch.agent_size // key.share.of
        real = self.replay.real.pick(size, key.fold(_REAL), self.device)
        imagined = self.replay.imagined.pick(size, key.fold(_IMAGINED), self.device)
        return cast(Batch, {**batch, "real": real, "imagined": imagined})

    def transition_losses(self, real: LatentTransitions, imagined: LatentTransitions, key: Key) -> tuple[Named, Named]:
        """Critics' and policy's on these transitions together; not scaled."""
        config, critic = self.config, self.critic
        data = LatentTransitions.join((real, imagined))
        q = critic(data.state, data.action)  # [2, N]
        with torch.no_grad():
            value = critic.target_min(data.next_state, self.policy(data.next_state))
            target = data.reward + config.gamma * data.goes_on * value  # [N]
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
        noise = normal(key, Stream.ACTION, tuple(action.shape), action.device, action.dtype, rows=-2)
        return self._disturbed(action, noise)

    def _disturbed(self, action: Tensor, noise: Tensor) -> Tensor:
        """The policy's actions with standard normal ``noise`` at its standard deviation, within [-1, 1]."""
        return (action + self.config.noise * noise).clamp(-1, 1)
