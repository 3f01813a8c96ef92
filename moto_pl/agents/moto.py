"""MOTO: Offline Pre-training to Online Fine-tuning for Model-based Robot Learning (Rafailov et al., CoRL 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.nn.actor_critic import Actor, QEnsemble, ValueCritic, penalise, trajectory_weights
from moto_pl.ops import Imagined, Key, Ops, Stream, imagine, integers, lambda_return, uniform
from moto_pl.ops.latent import check_disagreement
from moto_pl.replay.sampler import SequenceBatch

from .base import ActMode, Batch, BatchPart
from .model_based import ModelBasedAgent
from .settings import BatchConfig, BehaviourConfig, OptimConfig

# Purposes that a step's key is folded with: each set of draws has its own.
_MODEL, _AGENT, _CLONE, _IMAGINE, _ROWS, _TARGET = range(6)


class Starts(NamedTuple):
    """Where imagination starts, and the real transition that led there."""

    states: States  # [B, ...] start states
    previous: States  # [B, ...] the states before them
    action: Tensor  # [B, A] the action taken there
    reward: Tensor  # [B] the reward received for it
    valid: Tensor  # [B] float, 0 where the start has no predecessor in its sequence
    goes_on: Tensor  # [B] float, 0 where the episode ended with the start: nothing is earned from there on


class MOTO(ModelBasedAgent):
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

    actor: Actor
    critic: QEnsemble | ValueCritic

    def __init__(
        self,
        world_model: WorldModelConfig | None = None,
        behaviour: BehaviourConfig | None = None,
        batch: BatchConfig | None = None,
        optim: OptimConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(optim or OptimConfig(), ops, seed)
        self.model_config = world_model or WorldModelConfig()
        self.config = behaviour or BehaviourConfig()
        self.batch = batch or BatchConfig()
        check_disagreement(self.config.disagreement, self.model_config.latent, "behaviour.disagreement")
        self.settings = {
            "world_model": self.model_config,
            "behaviour": self.config,
            "batch": self.batch,
            "optim": self.optim,
            "ops": ops,
            "seed": seed,
        }

    def on_fit_start(self) -> None:
        """Says too where the penalty has no effect."""
        super().on_fit_start()
        if self.model_config.ensemble == 1 and self.config.disagreement_scale > 0:
            rank_zero_warn(
                f"behaviour.disagreement_scale: {self.config.disagreement_scale:g} has no effect with "
                "world_model.ensemble: 1, whose one prior head agrees with itself. Set it to 0."
            )

    def parts(self) -> dict[str, BatchPart]:
        """Model, agent and cloning sequences."""
        sizes, config = self.batch, self.config
        parts = {
            "model": BatchPart(sizes.model_size, sizes.model_length, component="model"),
            "agent": BatchPart(sizes.agent_size, sizes.agent_length),
        }
        if config.clone_scale > 0:
            parts["clone"] = BatchPart(sizes.clone_size, sizes.clone_length, config.clone_filter, config.clone_top)
        return parts

    def build(self, action_size: int) -> None:
        """World model, actor and critics."""
        config = self.config
        self.world_model = WorldModel(self.model_config, action_size, self.ops, self.terminates)
        features = self.world_model.feature_size
        self.actor = Actor(
            features, action_size, config.actor_layers, config.actor_units, config.action, config.min_std
        )
        if config.critic == "q_ensemble":
            self.critic = QEnsemble(config.critics, features, action_size, config.critic_layers, config.critic_units)
        else:
            self.critic = ValueCritic(features, config.critic_layers, config.critic_units)

    def after_step(self, step: int) -> None:
        """Copies the critics to their targets every ``target_every`` gradient steps."""
        if step % self.config.target_every == 0:
            self.critic.update_target()

    # The method.

    def model_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The world model's on its sequences."""
        losses, metrics, _ = self.world_model.loss(batch["model"], key.fold(_MODEL))
        return losses, metrics

    def behaviour_losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics and actor on what is imagined from the agent's sequences, and cloning on its own."""
        starts = self._starts(batch["agent"], key)
        rollout = self._imagine(starts.states, key)
        expand = self._q_losses if isinstance(self.critic, QEnsemble) else self._v_losses
        losses, metrics = expand(starts, rollout, key)
        if "clone" in batch:
            losses["actor/clone"], clone_metrics = self._clone_loss(batch["clone"], key)
            metrics |= clone_metrics
        return losses, metrics

    @torch.no_grad()
    def _starts(self, batch: SequenceBatch, key: Key) -> Starts:
        """Encodes the agent's sequences with the current model and draws the states where imagination starts."""
        states = self.world_model.observe(batch, key.fold(_AGENT)).states  # [T, B, ...]
        steps, size = batch.is_first.shape[1], batch.is_first.shape[0]
        count = steps * size
        wanted = self.config.imagine_rows
        if wanted is None or wanted >= count:
            rows = torch.arange(count, device=batch.reward.device)
        else:
            # The first `wanted` of a random order: drawn without replacement.
            order = uniform(key.fold(_ROWS), Stream.ROWS, (count,), batch.reward.device)
            rows = order.argsort()[:wanted]
        t, b = rows // size, rows % size
        before = (t - 1).clamp(min=0)
        return Starts(
            states=states.map(lambda x: x[t, b]),
            previous=states.map(lambda x: x[before, b]),
            action=batch.action[b, t],
            reward=batch.reward[b, t],
            valid=((t > 0) & ~batch.is_first[b, t]).float(),
            goes_on=1 - batch.is_terminal[b, t].float(),
        )

    def _imagine(self, start: States, key: Key) -> Imagined:
        """Rolls the policy through the model, whose weights are constants here."""
        config, rssm = self.config, self.world_model.rssm
        # With Q(s, a) the last of the H states closes the return; with V(s) all H steps are taken.
        steps = config.horizon - 1 if config.critic == "q_ensemble" else config.horizon
        return imagine(
            start.deter,
            start.stoch,
            self.actor.net.weights(),
            rssm.cell(frozen=True),
            rssm.prior(frozen=True),
            rssm.latent,
            key.fold(_IMAGINE),
            steps,
            action_kind=config.action,
            min_std=config.min_std,
            member_choice=config.imagine_member,
            disagreement_kind=config.disagreement,
            ops=self.ops,
        )

    def _earned(self, rollout: Imagined) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Penalised rewards r~_1..r~_H [H, B], discounts [H, B] and what to log of them."""
        states = States(rollout.deter[1:], rollout.stoch[1:])
        reward = self.world_model.predict_reward(states, frozen=True)
        penalised = penalise(reward, rollout.disagreement, self.config.disagreement_scale)
        discount = self.config.gamma * self.world_model.predict_continuation(states)
        with torch.no_grad():
            metrics = {
                "imagined/reward": reward.mean(),
                "imagined/disagreement": rollout.disagreement.mean(),
                "imagined/penalty": self.config.disagreement_scale * rollout.disagreement.mean(),
                "imagined/penalty_share": self.config.disagreement_scale
                * rollout.disagreement.mean()
                / reward.abs().mean().clamp(min=1e-6),
                "actor/entropy": rollout.entropy.mean(),
            }
        return penalised, discount, metrics

    def _q_losses(self, starts: Starts, rollout: Imagined, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics by value expansion of imagined and real transitions; actor by the expanded value."""
        config, critic = self.config, self.critic
        assert isinstance(critic, QEnsemble)
        penalised, discount, metrics = self._earned(rollout)
        weights = trajectory_weights(discount.detach(), starts.goes_on)  # [H, B]
        features = States(rollout.deter, rollout.stoch).features  # [H, B, F]
        action = rollout.action

        # G' of the target critic that this update draws.
        member = integers(key.fold(_TARGET), Stream.TARGET, config.critics, (1,), features.device)
        target_q = critic.target_value(features, action, member)  # [H, B]
        target = lambda_return(penalised.detach(), target_q, discount, config.lambda_, ops=self.ops)  # [H - 1, B]
        online = critic(features[:-1].detach(), action[:-1].detach())  # [N, H - 1, B]
        model_loss = (0.5 * (online - target).square() * weights[:-1]).mean()

        # Real transitions: data reward, then the imagined value of the state that they led to.
        bootstrap = (1 - config.lambda_) * target_q[0] + config.lambda_ * target[0]
        y = starts.reward + config.gamma * starts.goes_on * bootstrap  # [B]
        real = critic(starts.previous.features, starts.action)  # [N, B]
        # Not the mean over B: rows without a predecessor count for nothing.
        real_loss = (0.5 * (real - y).square() * starts.valid).sum() / (
            config.critics * starts.valid.sum().clamp(min=1)
        )

        q = critic.actor_value(features, action, config.actor_value)  # [H, B]
        expanded = lambda_return(penalised, q, discount, config.lambda_, ops=self.ops)  # [H - 1, B]
        expanded = torch.cat((expanded, q[-1:]))  # G_{H-1} = q_{H-1}
        value = (1 - config.lambda_) * q + config.lambda_ * expanded
        metrics |= {
            "critic/value": q.detach().mean(),
            "critic/target": target.mean(),
            "actor/return": expanded.detach().mean(),
        }
        losses = {
            "critic/model": model_loss,
            "critic/real": real_loss,
            "actor/value": -(weights * value).mean(),
            "actor/entropy_bonus": -config.entropy_scale * (weights * rollout.entropy).mean(),
        }
        return losses, metrics

    def _v_losses(self, starts: Starts, rollout: Imagined, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """DreamerV2's: one state value, on imagined transitions alone."""
        config, critic = self.config, self.critic
        assert isinstance(critic, ValueCritic)
        penalised, discount, metrics = self._earned(rollout)
        weights = trajectory_weights(discount.detach(), starts.goes_on)[:-1]  # [H, B]
        features = States(rollout.deter, rollout.stoch).features  # [H + 1, B, F]
        returns = lambda_return(penalised, critic.target_value(features), discount, config.lambda_, ops=self.ops)
        value = critic(features[:-1].detach())
        metrics |= {"critic/value": value.detach().mean(), "actor/return": returns.detach().mean()}
        losses = {
            "critic/model": (0.5 * (value - returns.detach()).square() * weights).mean(),
            "actor/value": -(weights * returns).mean(),
            "actor/entropy_bonus": -config.entropy_scale * (weights * rollout.entropy[:-1]).mean(),
        }
        return losses, metrics

    def _clone_loss(self, batch: SequenceBatch, key: Key) -> tuple[Tensor, dict[str, Tensor]]:
        """Filtered behaviour cloning: -beta_bc * E[ln pi(a_t | s_t)] on posterior features without gradient."""
        config = self.config
        with torch.no_grad():
            features = self.world_model.observe(batch, key.fold(_CLONE)).states.features[:-1]  # [T - 1, B, F]
        # Row t + 1 holds the action taken in row t's state.
        action = batch.action.transpose(0, 1)[1:].clamp(-config.clone_limit, config.clone_limit)
        log_prob = self.actor.dist(features).log_prob(action)  # [T - 1, B]
        keep = self._advantage_mask(batch, features, key) if config.clone_filter == "advantage" else None
        mean = log_prob.mean() if keep is None else (log_prob * keep).sum() / keep.sum().clamp(min=1)
        metrics = {"actor/clone_log_prob": mean.detach()}
        if keep is not None:
            metrics["actor/clone_share"] = keep.mean()
        return -config.clone_scale * mean, metrics

    @torch.no_grad()
    def _advantage_mask(self, batch: SequenceBatch, features: Tensor, key: Key) -> Tensor:
        """1 where the data's lambda-return G_t is at least Q(s_t, a ~ pi): [T - 1, B]."""
        config, critic = self.config, self.critic
        assert isinstance(critic, QEnsemble)
        dist = self.actor.dist(features)
        noise = uniform(key.fold(_CLONE), Stream.ACTION, tuple(dist.mean.shape), features.device)
        q = critic.actor_value(features, dist.sample(noise), "mean")  # [T - 1, B]
        reward = batch.reward.transpose(0, 1)[1:-1]
        goes_on = 1 - batch.is_terminal.transpose(0, 1)[1:-1].float()
        returns = lambda_return(reward, q, config.gamma * goes_on, config.lambda_, ops=self.ops)
        # The sequence's last transition has no successor to bootstrap from: it is not judged, and not cloned.
        return torch.cat((returns >= q[:-1], torch.zeros_like(q[-1:], dtype=torch.bool))).float()

    # Acting.

    @property
    def gamma(self) -> float:
        """See :meth:`Agent.gamma`."""
        return self.config.gamma

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor:
        """See :meth:`Agent.action_values`; the state's value where the critic is one of states."""
        states = self.world_model.observe(batch, key).states.map(lambda x: x[:-1, 0])  # [T, ...]
        if isinstance(self.critic, QEnsemble):
            return self.critic.actor_value(states.features, batch.action[0, 1:], self.config.actor_value)
        return self.critic(states.features)

    def latent_action(self, features: Tensor, mode: ActMode, key: Key) -> Tensor:
        """The distribution's mode, or a draw; see :meth:`ModelBasedAgent.latent_action`."""
        dist = self.actor.dist(features)
        if mode == "mode":
            return dist.mode()
        return dist.sample(uniform(key, Stream.ACTION, tuple(dist.mean.shape), features.device))
