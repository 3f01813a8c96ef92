"""What agents with a world model share; and what those share that learn in rollouts from real states.

One letter has one meaning in all shapes, here and in ``nn``; docs/shapes.md has the legend.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.nn.actor_critic import Actor, QEnsemble, ValueCritic
from moto_pl.ops import Disagreement, Imagined, Key, Ops, Share, Stream, average, imagine, lambda_return, total, uniform
from moto_pl.ops.extension import compiled_products, status, use_compiled
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Components

from .base import ActMode, Agent, Batch, BatchPart, ParamGroup, RoundData
from .settings import BatchConfig, ImaginationConfig, OptimConfig

#: Losses, or figures to log, by name.
Named = dict[str, Tensor]

# Purposes that a step's key is folded with: each set of draws has its own.
MODEL, AGENT, CLONE, IMAGINE, ROWS, TARGET = range(6)


class ActingState(NamedTuple):
    """Latent state of each environment and the last action that it executed."""

    states: States  # [n, ...]
    action: Tensor  # [n, A]


class ModelBasedAgent(Agent):
    """An agent with a world model, an actor and a critic on its latent states.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: the subclass's settings of actor, critics and imagination.
        batch: the subclass's sizes of a training batch.
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

    def __init__(
        self, world_model: WorldModelConfig, behaviour: Any, batch: Any, optim: OptimConfig, ops: Ops, seed: int
    ) -> None:
        super().__init__(seed, optim.weight_decay, optim.adam_eps, optim.final_lr, optim.ema_decay)
        self.model_config, self.config, self.batch, self.optim, self.ops = world_model, behaviour, batch, optim, ops
        self.settings = {
            "world_model": world_model,
            "behaviour": behaviour,
            "batch": batch,
            "optim": optim,
            "ops": ops,
            "seed": seed,
        }
        self._warned_of_ends = False

    def param_groups(self) -> list[ParamGroup]:
        """World model, actor, critics."""
        optim = self.optim
        return [
            ParamGroup("model", (self.world_model,), optim.model_lr, optim.clip, "model"),
            ParamGroup("actor", (self.actor,), optim.actor_lr, optim.clip),
            ParamGroup("critic", (self.critic,), optim.critic_lr, optim.clip),
        ]

    def losses(self, batch: Batch, key: Key) -> tuple[Named, Named]:
        """World model, critics and actor, each with its own part of the batch."""
        return self.losses_of("all", batch, key)

    @abstractmethod
    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[Named, Named]:
        """See :meth:`Agent.losses_of`; no loss of the behaviour moves the world model."""

    @abstractmethod
    def behaviour_scales(self) -> dict[str, float]:
        """What each loss of actor and critics is multiplied with, by its name."""

    def scales(self, components: Components) -> dict[str, float]:
        """What each loss of these components is multiplied with, by its name."""
        model = {} if components == "behaviour" else self.world_model.scales
        return model if components == "model" else {**model, **self.behaviour_scales()}

    def on_fit_start(self) -> None:
        """Says which operators train; refuses ``ops: compiled`` where there are none before anything runs."""
        state, unknown = torch.empty(0, device=self.device), self.world_model.latent.uncompiled
        # Autocast decides too, and Lightning has it around steps alone.
        with self._trainer.precision_plugin.train_step_context() if self._trainer else nullcontext():
            compiled = compiled_products("observe", self.ops, state, unknown) is not None
        form, why = "compiled operators train", ""
        if not compiled:
            form = f"plain-PyTorch references {' and '.join(self.operators)}"
        if not compiled and use_compiled(self.ops, self.device):
            setting = f"world_model.{unknown}" if unknown else f"trainer.precision: {self.trainer.precision}"
            why = f" (compiled operators do not know {setting})"
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
        super().adopt(description)
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
        self,
        image: Tensor,
        is_first: Tensor,
        state: ActingState,
        mode: ActMode,
        key: Key,
        vector: Tensor | None = None,
    ) -> tuple[Tensor, ActingState]:
        """Filters what is seen into the latent state and asks the policy there; see :meth:`Agent.act`."""
        states = self.world_model.step(state.states, state.action, image, is_first, key, vector)
        action = self.latent_action(states.features, mode, key)  # [n, A]
        assert action.shape == state.action.shape
        return action, ActingState(states, action)

    def executed(self, state: ActingState, action: Tensor) -> ActingState:
        """The next frame is filtered with the action that led to it; see :meth:`Agent.executed`."""
        return state._replace(action=action.to(state.action))


def scaled(losses: Named, scales: dict[str, float]) -> Named:
    """Each loss times its scale; every loss has a scale, and every scale a loss."""
    assert all(loss.dim() == 0 for loss in losses.values())
    assert set(losses) == set(scales), f"losses without a scale, or scales without a loss: {set(losses) ^ set(scales)}"
    return {name: scales[name] * loss for name, loss in losses.items()}


class Places(NamedTuple):
    """Where imagination starts: places in the sequences of all processes, which imagine from equal parts of them.

    A place's row is often another process's than the one that starts there.
    """

    t: Tensor  # [M] int64, steps
    b: Tensor  # [M] int64, sequences, counted over all processes
    share: Share

    def take(self, *rows: Tensor, back: int = 0) -> list[Tensor]:
        """What lies in this process's N places, of what each process has of its own sequences.

        Args:
            rows: floats [T, B, ...].
            back: steps before the places, but not before a sequence's start.

        Returns:
            [N, ...] of each, without gradient where there are other processes.
        """
        t = (self.t - back).clamp(min=0)
        if self.share.whole:
            return [x[t, self.b] for x in rows]
        count, (first, _) = rows[0].shape[1], self.share.rows(rows[0].shape[1])
        here = ((self.b >= first) & (self.b < first + count)).to(rows[0].dtype)
        b = (self.b - first).clamp(0, count - 1)
        flat = [x[t, b].reshape(len(t), -1) for x in rows]
        found = total(torch.cat(flat, 1) * here.unsqueeze(1), self.share)  # of one term that is not 0
        each = len(t) // self.share.of
        parts = found.narrow(0, self.share.begin * each, each).split([x.shape[1] for x in flat], 1)
        return [part.reshape(each, *x.shape[2:]) for part, x in zip(parts, rows, strict=True)]


class Starts(NamedTuple):
    """Where imagination starts, and the real transition that led there."""

    rows: States  # [T, B, ...] the sequences' states, of which the start states are some
    places: Places
    states: States  # [N, ...] start states
    previous: States  # [N, ...] the states before them
    action: Tensor  # [N, A] the action taken there
    reward: Tensor  # [N] the reward received for it
    valid: Tensor  # [N] float, 0 where the start has no predecessor in its sequence
    goes_on: Tensor  # [N] float, 0 where the episode ended with the start: nothing is earned from there on


class ImaginationAgent(ModelBasedAgent):
    """Learns to act in rollouts of its world model that start in posterior states of real sequences."""

    config: ImaginationConfig
    batch: BatchConfig
    actor: Actor
    critic: QEnsemble | ValueCritic
    #: The estimator of the members' disagreement in rollouts.
    disagreement: Disagreement = "mean"

    def __init__(
        self,
        world_model: WorldModelConfig | None,
        behaviour: ImaginationConfig,
        batch: BatchConfig | None,
        optim: OptimConfig | None,
        ops: Ops,
        seed: int,
    ) -> None:
        super().__init__(
            world_model or WorldModelConfig(), behaviour, batch or BatchConfig(), optim or OptimConfig(), ops, seed
        )

    def parts(self) -> dict[str, BatchPart]:
        """Model and agent sequences."""
        return {
            "model": BatchPart(self.batch.model_size, self.batch.model_length, component="model"),
            "agent": BatchPart(self.batch.agent_size, self.batch.agent_length),
        }

    def build(self, action_size: int) -> None:
        """World model and actor; a subclass adds its critic."""
        config = self.config
        self.world_model = WorldModel(self.model_config, action_size, self.ops, self.terminates, self.observation)
        self.actor = Actor(
            self.world_model.feature_size,
            action_size,
            config.actor_layers,
            config.actor_units,
            config.action,
            config.min_std,
        )

    def after_step(self, step: int) -> None:
        """Copies the critics to their targets every ``target_every`` gradient steps."""
        if self.copies_targets(step):
            self.critic.update_target()

    def copies_targets(self, step: int) -> bool:
        """See :meth:`Agent.copies_targets`."""
        return step % self.config.target_every == 0

    def on_fit_start(self) -> None:
        """Refuses what processes cannot share; see :meth:`ModelBasedAgent.on_fit_start`."""
        super().on_fit_start()
        wanted, processes = self.config.imagine_rows, self.share.of
        if wanted is not None and wanted % processes:
            setting = "model.init_args.behaviour.imagine_rows"
            raise SettingError(setting, wanted, f"Give a multiple of the {processes} processes, or null.")

    # Rollouts.

    @torch.no_grad()
    def draw_starts(self, batch: SequenceBatch, key: Key) -> Starts:
        """Encodes sequences [B, T] with the current model and draws the N states where imagination starts."""
        states = self.world_model.observe(batch, key.fold(AGENT)).states  # [T, B, ...]
        B, T = batch.is_first.shape
        _, sequences = key.share.rows(B)
        count, wanted, device = T * sequences, self.config.imagine_rows, batch.reward.device
        if wanted is None or wanted >= count:
            rows = torch.arange(count, device=device)
        else:
            # The first `wanted` of a random order: drawn without replacement.
            rows = uniform(key.fold(ROWS), Stream.ROWS, (count,), device).argsort()[:wanted]
        assert states.deter.shape[:2] == (T, B) == batch.reward.shape[::-1]
        places, like = Places(rows // sequences, rows % sequences, key.share), batch.reward
        follows = ~batch.is_first.T & (torch.arange(T, device=device) > 0).unsqueeze(1)  # [T, B]
        data = batch.action.transpose(0, 1), batch.reward.T, follows.to(like), 1 - batch.is_terminal.T.to(like)
        deter, stoch, action, reward, valid, goes_on = places.take(*states, *data)
        previous = States(*places.take(*states, back=1))
        return Starts(states, places, States(deter, stoch), previous, action, reward, valid, goes_on)

    def imagine(self, start: States, key: Key) -> Imagined:
        """Rolls the policy from ``start`` [N, ...] through the model, whose weights are constants here."""
        config, rssm = self.config, self.world_model.rssm
        return imagine(
            start.deter,
            start.stoch,
            self.actor.net.weights(),
            rssm.cell(frozen=True),
            rssm.prior(frozen=True),
            rssm.latent,
            key.fold(IMAGINE),
            self.imagined_steps,
            action_kind=config.action,
            min_std=config.min_std,
            member_choice=config.imagine_member,
            disagreement_kind=self.disagreement,
            ops=self.ops,
        )

    @property
    def imagined_steps(self) -> int:
        """Steps of a rollout."""
        return self.config.horizon

    def earned(self, rollout: Imagined) -> tuple[Tensor, Tensor]:
        """What a rollout of H states earns: rewards r(s_1)..r(s_{H-1}) and their discounts, both [H - 1, N]."""
        states = States(rollout.deter[1:], rollout.stoch[1:])
        reward = self.world_model.predict_reward(states, frozen=True)
        return reward, self.config.gamma * self.world_model.predict_continuation(states)

    def state_value_losses(
        self, rollout: Imagined, reward: Tensor, discount: Tensor, weights: Tensor
    ) -> tuple[Named, Named]:
        """DreamerV2's critic V(s) and actor (its Eq. 4 to 6) on a rollout of H states; not scaled.

        Args:
            rollout: from :meth:`imagine`.
            reward: [H - 1, N].
            discount: [H - 1, N].
            weights: how much each state counts [H, N].

        Returns:
            Losses and metrics.
        """
        config, critic = self.config, self.critic
        assert isinstance(critic, ValueCritic)
        features = States(rollout.deter, rollout.stoch).features  # [H, N, F]
        returns = lambda_return(reward, critic.target_value(features), discount, config.lambda_, ops=self.ops)
        value = critic(features[:-1].detach())  # [H - 1, N]
        assert value.shape == returns.shape == weights[:-1].shape
        losses = {
            "critic/model": (0.5 * (value - returns.detach()).square() * weights[:-1]).mean(),
            "actor/value": -(weights[:-1] * returns).mean(),
            "actor/entropy_bonus": -(weights[:-1] * rollout.entropy[:-1]).mean(),
        }
        return losses, {"critic/value": value.detach().mean(), "actor/return": returns.detach().mean()}

    # Acting.

    @property
    def gamma(self) -> float:
        """See :meth:`Agent.gamma`."""
        return self.config.gamma

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor:
        """See :meth:`Agent.action_values`; the state's value, where the critic is one of states."""
        assert isinstance(self.critic, ValueCritic)
        return self.critic(self.world_model.observe(batch, key).states.map(lambda x: x[:-1, 0]).features)

    def latent_action(self, features: Tensor, mode: ActMode, key: Key) -> Tensor:
        """The distribution's mode or mean, or a draw; see :meth:`ModelBasedAgent.latent_action`."""
        dist = self.actor.dist(features)
        if mode == "mode":
            return dist.expected() if self.config.greedy == "mean" else dist.mode()
        noise = uniform(key, Stream.ACTION, tuple(dist.mean.shape), features.device, dist.mean.dtype, rows=-2)
        return dist.sample(noise)


@torch.no_grad()
def rollout_metrics(rollout: Imagined, reward: Tensor, share: Share, disagreement_scale: float | Tensor = 0.0) -> Named:
    """What to log of a rollout, of the rewards [H - 1, N] predicted in it, and of the penalty beside them."""
    spread, size = average(torch.stack((rollout.disagreement.mean(), reward.abs().mean())), share)
    return {
        "imagined/reward": reward.mean(),
        "imagined/disagreement": spread,
        "imagined/penalty": disagreement_scale * spread,
        "imagined/penalty_share": disagreement_scale * spread / size.clamp(min=1e-6),
        "actor/entropy": rollout.entropy.mean(),
    }
