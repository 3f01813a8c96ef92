"""MOTO: Offline Pre-training to Online Fine-tuning for Model-based Robot Learning (Rafailov et al., CoRL 2023).

:meth:`MOTO.losses_of` is the method. Rollouts and acting are :class:`~moto_pl.agents.model_based.ImaginationAgent`'s.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from moto_pl.nn import States, WorldModelConfig
from moto_pl.nn.actor_critic import QEnsemble, ValueCritic, expand, masked_mean, trajectory_weights
from moto_pl.ops import Key, Ops, Share, Stream, average, integers, lambda_return
from moto_pl.ops.latent import check_disagreement
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Components

from .base import Batch, BatchPart
from .model_based import CLONE, MODEL, TARGET, ImaginationAgent, Named, Starts, rollout_metrics, scaled
from .settings import BatchConfig, BehaviourConfig, OptimConfig

#: In a batch: the share of the value's weight that the actor hears at this step, a number on the device.
_VALUE_SHARE = "value_share"


class MOTO(ImaginationAgent):
    """Ensemble world model, value-expanded critics, and an actor held to the good data.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: actor, critics, imagination, cloning.
        batch: sizes of a training batch.
        optim: learning rates and clipping.
        ops: ``compiled`` or ``reference`` operators for imagination, observation and lambda-returns; ``auto``: compiled
            where they were built for the device.
        seed: keys initial weights and noise.
    """

    config: BehaviourConfig

    def __init__(
        self,
        world_model: WorldModelConfig | None = None,
        behaviour: BehaviourConfig | None = None,
        batch: BatchConfig | None = None,
        optim: OptimConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(world_model, behaviour or BehaviourConfig(), batch, optim, ops, seed)
        self.disagreement = self.config.disagreement
        check_disagreement(self.disagreement, self.model_config.latent, "behaviour.disagreement")

    def on_fit_start(self) -> None:
        """Says too where the penalty has no effect."""
        super().on_fit_start()
        if self.model_config.ensemble == 1 and self.config.disagreement_scale > 0:
            rank_zero_warn(
                f"behaviour.disagreement_scale: {self.config.disagreement_scale:g} has no effect with "
                "world_model.ensemble: 1, whose one prior head agrees with itself. Set it to 0."
            )
        begin, end = self.config.value_episodes
        if end and self.value_share(self.schedule.total_steps - 1) == 0:
            rank_zero_warn(
                f"behaviour.value_episodes: [{begin}, {end}]: this run collects {self.schedule.online_episodes} "
                "episodes, so that its actor only clones. Set it to [0, 0] to hear the value from the start."
            )

    def parts(self) -> dict[str, BatchPart]:
        """Model, agent and cloning sequences."""
        sizes, config = self.batch, self.config
        if config.clone_scale <= 0:
            return super().parts()
        best = config.clone_top, config.clone_least
        clone = BatchPart(sizes.clone_size, sizes.clone_length, config.clone_filter, *best)
        return {**super().parts(), "clone": clone}

    def build(self, action_size: int) -> None:
        """World model, actor and critics."""
        super().build(action_size)
        config, features = self.config, self.world_model.feature_size
        if config.critic == "q_ensemble":
            self.critic = QEnsemble(config.critics, features, action_size, config.critic_layers, config.critic_units)
        else:
            self.critic = ValueCritic(features, config.critic_layers, config.critic_units)

    # The method.

    def behaviour_scales(self) -> dict[str, float]:
        """See :meth:`ModelBasedAgent.behaviour_scales`."""
        config = self.config
        scales = {"critic/model": 1.0, "critic/real": 1.0, "actor/value": config.value_scale}
        scales |= {"actor/entropy_bonus": config.entropy_scale, "actor/clone": config.clone_scale}
        absent = {"critic/real"} if config.critic == "v" else set()
        absent |= {"actor/clone"} if config.clone_scale <= 0 else set()
        return {name: scale for name, scale in scales.items() if name not in absent}

    def value_share(self, step: int) -> float:
        """How much of ``value_scale`` the actor hears at gradient step ``step`` (from 0), in [0, 1]."""
        begin, end = self.config.value_episodes
        if end == 0 or self.facts is None:
            return 1.0
        collected = self.schedule.episodes_at(step)
        return min(1.0, max(0.0, (collected - begin) / (end - begin))) if begin < end else float(collected >= end)

    def drawn_on_host(self, components: Components, batch: Batch, key: Key) -> Batch:
        """Adds what the present step hears of the value, where that changes; see :meth:`Agent.drawn_on_host`."""
        if self.config.value_episodes[1] == 0 or components == "model":
            return batch
        share = torch.full((), self.value_share(self.global_step), device=self.device)
        return cast(Batch, {**batch, _VALUE_SHARE: share})

    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[Named, Named]:
        """The method: a gradient step lessens the sum of these losses, each times its entry in :meth:`scales`."""
        config, critic, losses, metrics = self.config, self.critic, Named(), Named()
        # Where its share of the loss grows, the actor hears of the value only when critics have seen it fail.
        known: Any = batch if _VALUE_SHARE in batch else self.drawn_on_host(components, batch, key)
        heard = known.get(_VALUE_SHARE)
        if components != "behaviour":
            # The ensemble RSSM: its evidence lower bound (DreamerV2, Eq. 2).
            losses, metrics = self.world_model.loss(batch["model"], key.fold(MODEL))
        if components == "model":
            return scaled(losses, self.scales(components)), metrics

        # Rollouts from posterior states s_0 of other sequences: a_i ~ pi(. | s_i), s_{i+1} ~ p_k(. | s_i, a_i).
        starts = self.draw_starts(batch["agent"], key)
        rollout = self.imagine(starts.states, key)
        features, action = States(rollout.deter, rollout.stoch).features, rollout.action  # [H, N, F], [H, N, A]
        # r~_{i+1} = r(s_{i+1}) - alpha u(s_i, a_i) (Eq. 2), and how much each state counts.
        reward, discount = self.earned(rollout)  # [H - 1, N]
        alpha = config.disagreement_scale / self.disagreement_unit(starts.rows, key.share)
        penalised = reward - alpha * rollout.disagreement
        weights = trajectory_weights(discount.detach(), starts.goes_on)  # [H, N]
        assert weights.shape == features.shape[:2] and penalised.shape == discount.shape == weights[:-1].shape
        metrics |= rollout_metrics(rollout, reward, key.share, alpha)

        if isinstance(critic, ValueCritic):
            more, figures = self.state_value_losses(rollout, penalised, discount, weights)
        else:
            # Targets G'_i and (1 - lambda) Q'_i + lambda G'_i (DreamerV2, Eq. 4), Q' that of a critic drawn anew.
            member = integers(key.fold(TARGET), Stream.TARGET, config.critics, (1,), features.device)
            target_q = critic.target_value(features, action, member)  # [H, N]
            target, bootstrap = expand(penalised.detach(), target_q, discount, config.lambda_, self.ops)
            # Critics, on imagined steps, and on the real ones that led to s_0: their reward, then what s_0 is worth.
            imagined = critic(features[:-1].detach(), action[:-1].detach())  # [Q, H - 1, N]
            real = critic(starts.previous.features, starts.action)  # [Q, N]
            worth = (
                bootstrap[0]
                if config.real_return == "imagined"
                else self.data_value(batch["agent"], starts, member, key)
            )
            real_target = starts.reward + config.gamma * starts.goes_on * worth  # [N]
            assert imagined.shape[1:] == target[:-1].shape and real.shape[1:] == real_target.shape == starts.valid.shape
            model_loss = (0.5 * (imagined - target[:-1]).square() * weights[:-1]).mean()
            real_loss = masked_mean(0.5 * (real - real_target).square(), starts.valid, key.share)
            # The actor: the same expansion of what the critics now say, with the gradient through all of the rollout.
            q = critic.actor_value(features, action, config.actor_value)  # [H, N]
            returns, value = expand(penalised, q, discount, config.lambda_, self.ops)
            gain, entropy = (weights * value).mean(), (weights * rollout.entropy).mean()
            more = {"critic/model": model_loss, "critic/real": real_loss}
            more |= {"actor/value": -gain, "actor/entropy_bonus": -entropy}
            figures = {"critic/value": q.detach().mean(), "critic/target": target[:-1].mean()}
            figures |= {"actor/return": returns.detach().mean()}
        if heard is not None:
            more["actor/value"] = heard * more["actor/value"]
            figures["actor/value_share"] = heard
        if config.clone_scale > 0:
            # Cloning of the filtered data, on features without gradient: -E[ln pi(a_t | s_t)].
            more["actor/clone"], cloned = self._clone_loss(batch["clone"], key)
            figures |= cloned
        return scaled(losses | more, self.scales(components)), metrics | figures

    @property
    def imagined_steps(self) -> int:
        """With Q(s, a) the last of the H states closes the return; with V(s) all H steps are taken."""
        return self.config.horizon - 1 if self.config.critic == "q_ensemble" else self.config.horizon

    @torch.no_grad()
    def disagreement_unit(self, rows: States, share: Share) -> float | Tensor:
        """What disagreement is counted in: 1, or its mean along all processes' real sequences, here [T, B, ...]."""
        if self.config.disagreement_unit == "one":
            return 1.0
        model, after = self.world_model, rows.map(lambda x: x[1:])
        spread = model.disagreement(model.rssm.priors(after.deter), after.stoch, self.disagreement)  # [T - 1, B]
        return average(spread.mean(), share).clamp(min=1e-8)  # one member agrees with itself

    @torch.no_grad()
    def data_value(self, batch: SequenceBatch, starts: Starts, member: Tensor, key: Key) -> Tensor:
        """What each start state of sequences [B, T] was worth, by what was earned after it in its sequence: [N].

        Args:
            batch: the sequences.
            starts: drawn from them.
            member: the target critic that says what a sequence's states were worth to the policy.
            key: names the policy's draws there.
        """
        config, critic = self.config, self.critic
        assert isinstance(critic, QEnsemble)
        features = starts.rows.features  # [T, B, F]
        q = critic.target_value(features, self.latent_action(features, "sample", key.fold(TARGET)), member)  # [T, B]
        # Row t + 1 holds the reward for what was done in row t's state.
        reward = batch.reward.transpose(0, 1)[1:]
        goes_on = 1 - batch.is_terminal.transpose(0, 1)[1:].to(reward)
        _, value = expand(reward, q, config.gamma * goes_on, config.lambda_, self.ops)
        return starts.places.take(value)[0]

    def _clone_loss(self, batch: SequenceBatch, key: Key) -> tuple[Tensor, Named]:
        """The negative mean of ln pi(a_t | s_t) over a batch [B, T], of the steps that the filter keeps; not scaled."""
        config = self.config
        with torch.no_grad():
            features = self.world_model.observe(batch, key.fold(CLONE)).states.features[:-1]  # [T - 1, B, F]
        # Row t + 1 holds the action taken in row t's state.
        action = batch.action.transpose(0, 1)[1:].clamp(-config.clone_limit, config.clone_limit)
        log_prob = self.actor.dist(features).log_prob(action)  # [T - 1, B]
        assert log_prob.shape == features.shape[:2] == action.shape[:2]
        if config.clone_filter != "advantage":
            mean = log_prob.mean()
            return -mean, {"actor/clone_log_prob": mean.detach()}
        keep = self._advantage_mask(batch, features, key)
        mean = masked_mean(log_prob, keep, key.share)
        return -mean, {"actor/clone_log_prob": mean.detach(), "actor/clone_share": keep.mean()}

    @torch.no_grad()
    def _advantage_mask(self, batch: SequenceBatch, features: Tensor, key: Key) -> Tensor:
        """1 where the data's lambda-return G_t is at least Q(s_t, a ~ pi), for [B, T] and [T - 1, B, F]: [T - 1, B]."""
        config, critic = self.config, self.critic
        assert isinstance(critic, QEnsemble)
        own = self.latent_action(features, "sample", key.fold(CLONE))  # [T - 1, B, A]
        q = critic.actor_value(features, own, "mean")  # [T - 1, B]
        reward = batch.reward.transpose(0, 1)[1:-1]
        goes_on = 1 - batch.is_terminal.transpose(0, 1)[1:-1].to(reward)
        returns = lambda_return(reward, q, config.gamma * goes_on, config.lambda_, ops=self.ops)
        # The sequence's last transition has no successor to bootstrap from: it is not judged, and not cloned.
        return torch.cat((returns >= q[:-1], torch.zeros_like(q[-1:], dtype=torch.bool))).to(q)

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor:
        """See :meth:`Agent.action_values`; the state's value where the critic is one of states."""
        if isinstance(self.critic, ValueCritic):
            return super().action_values(batch, key)
        states = self.world_model.observe(batch, key).states.map(lambda x: x[:-1, 0])  # [T, ...]
        return self.critic.actor_value(states.features, batch.action[0, 1:], self.config.actor_value)
