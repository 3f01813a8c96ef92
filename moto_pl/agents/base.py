"""What all agents share: the training step, acting, and what a checkpoint says of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from moto_pl.agents.trainer_arguments import check_trainer
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.ops import Key, Share, average, full
from moto_pl.replay.parts import Batch, BatchPart
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.rollout.policy import ActMode, ArraySpec
from moto_pl.schedule import Components, Schedule

from .capture import CaptureMode, RunCapture
from .description import check_same_agent, observation_of, plain
from .initial import InitialWeights, take
from .moving_average import MovingAverage
from .param_groups import Clipping, ParamGroup
from .run_facts import RoundData, RunFacts


class Agent(L.LightningModule):
    """An agent that learns from sequences and acts from images.

    One optimizer with a parameter group a component, automatic optimization, one backward over the sum of the losses:
    ``global_step`` counts gradient steps. All noise is keyed by ``(seed, global_step)``, so that a resumed run repeats
    the unbroken one. Networks are made in :meth:`configure_model`, once the agent knows its run (:meth:`meet`).

    Args:
        seed: keys the weights' initial values and all noise.
        weight_decay: share of every weight that a gradient step takes away, in [0, 1): w <- (1 - weight_decay) w before
            Adam's own step, as in DreamerV2. Learning rates and their schedule do not change it; at a learning rate of
            0 there is none.
        adam_eps: Adam's epsilon.
        final_lr: share of the learning rates that is left when the online phase ends; they fall linearly over it.
        ema_decay: decay, a gradient step, of the moving average of the weights that acts; 0 acts with the weights.
    """

    #: What the settings that hold ``final_lr`` and ``ema_decay`` are called.
    optimizer_settings = "optim"

    def __init__(
        self,
        seed: int = 0,
        weight_decay: float = 1e-6,
        adam_eps: float = 1e-5,
        final_lr: float = 1.0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, good, fix in (
            ("final_lr", final_lr, 0 <= final_lr <= 1, "Give a share in [0, 1]; 1 keeps the learning rates."),
            ("weight_decay", weight_decay, 0 <= weight_decay < 1, "Give a share in [0, 1); 0 takes nothing away."),
            ("ema_decay", ema_decay, 0 <= ema_decay < 1, "Give a number in [0, 1); 0 acts with the weights."),
        ):
            if not good:
                raise SettingError(f"{self.optimizer_settings}.{name}", value, fix)
        self.seed, self.weight_decay, self.adam_eps, self.final_lr = seed, weight_decay, adam_eps, final_lr
        self.ema_decay = ema_decay
        self.average = MovingAverage(ema_decay)  # what acts, with ema_decay
        self.action_size: int | None = None
        self.terminates = False  # whether demonstrations end early; known before networks are made
        self.observation = Observation()  # what it sees; the same
        self.action_scale: ActionScale | None = None  # what its actions stand for; None: themselves
        self.facts: RunFacts | None = None
        self.initial: InitialWeights | None = None  # what a new run begins with, in place of the seed's weights
        self.settings: dict[str, Any] = {}
        self.loaded_step = 0  # gradient steps behind weights that were loaded to be evaluated
        self.step_losses: dict[str, Tensor] = {}  # of the step in progress, until its backward pass is done
        self.capture: CaptureMode = "auto"  # whether CUDA graphs take the steps: numbers do not change with it
        self._run_capture: RunCapture | None = None
        self._captured = False  # whether a graph takes the step in progress
        self._batch: Batch = {}  # of the step in progress
        self._norms: dict[str, Tensor] = {}  # of its gradients before clipping, by component

    #: Whether there is a world model, which ``data.pretrain: model_first`` can train apart from what acts on it.
    has_world_model = False

    # Its run.

    def meet(self, facts: RunFacts) -> None:
        """Tells the agent of its run, before :meth:`configure_model`."""
        self.facts = facts

    @property
    def schedule(self) -> Schedule:
        """The run's."""
        assert self.facts is not None, "tell an agent of its run first: Agent.meet"
        return self.facts.schedule

    @property
    def trained_steps(self) -> int:
        """Gradient steps behind the present weights."""
        return self.trainer.global_step if self.trainer.state.fn == "fit" else self.loaded_step

    def begin_round(self, data: RoundData) -> None:
        """Called as each round begins, when its episodes are collected."""

    # What an agent has to say for itself.

    @abstractmethod
    def parts(self) -> dict[str, BatchPart]:
        """The parts of a training batch, by name."""

    @abstractmethod
    def build(self, action_size: int) -> None:
        """Makes the networks."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """The optimizer's parameter groups; every trainable parameter is in exactly one."""

    @abstractmethod
    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted losses, whose sum is minimised, and metrics to log."""

    def losses_of(self, components: Components, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As :meth:`losses`, of these components alone: the others' are not computed.

        An agent without a world model is all behaviour, and has no losses of a model.
        """
        return ({}, {}) if components == "model" else self.losses(batch, key)

    @property
    def observes(self) -> Mapping[str, ArraySpec]:
        """The arrays of an observation that it acts from, by their names in the environment's."""
        size = self.observation.image_size
        cameras = {name: ArraySpec((size, size, 3), "uint8") for name in self.observation.cameras}
        return cameras | {name: ArraySpec((size,), "float32") for name, size in self.observation.state.items()}

    @abstractmethod
    def initial_state(self, count: int) -> Any:
        """The acting state of ``count`` environments before their first frame."""

    @abstractmethod
    def act(
        self, image: Tensor, is_first: Tensor, state: Any, mode: ActMode, key: Key, vector: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Acts in n environments.

        Args:
            image: uint8 [n, 3 * M, H, W], M cameras' one after another.
            is_first: bool [n], true on an episode's first frame.
            state: from :meth:`initial_state` or the last call.
            mode: ``sample`` to collect, ``mode`` to evaluate.
            key: names the draws.
            vector: state vectors float32 [n, V], where it sees any.

        Returns:
            Actions [n, A] in [-1, 1] and the next state.
        """

    def executed(self, state: Any, action: Tensor) -> Any:
        """Tells the acting state what the environments got, which noise and clipping make other than what was asked.

        Args:
            state: from :meth:`act`.
            action: what was executed, [n, A] in [-1, 1].

        Returns:
            The state to act from next. An agent whose state holds no action leaves it as it is.
        """
        return state

    def action_values(self, batch: SequenceBatch, key: Key) -> Tensor | None:
        """What the critics say of the actions taken in one whole episode of T steps.

        Args:
            batch: a sequence of T + 1 rows.
            key: names the draws of latents.

        Returns:
            [T], as the actor sees it; None where there is no critic.
        """
        return None

    @property
    def has_values(self) -> bool:
        """Whether there is a critic, whose values are compared with what is earned."""
        return type(self).action_values is not Agent.action_values

    @property
    def gamma(self) -> float:
        """The discount of the agent's values."""
        return 1.0

    def after_step(self, step: int) -> None:
        """Called after gradient step number ``step`` (from 1) of actor and critics: target updates."""

    def copies_targets(self, step: int) -> bool:
        """Whether :meth:`after_step` does more after this step than after others; all it may depend on."""
        return False

    def drawn_on_host(self, components: Components, batch: Batch, key: Key) -> Batch:
        """The batch with what :meth:`losses_of` would draw for it from the host's memory, which no graph can."""
        return batch

    def acting_weights(self) -> AbstractContextManager[None]:
        """Within it the parameters are their moving averages, if ``ema_decay`` keeps some: for acting."""
        return self.average.in_place(self)

    def acting_snapshot(self) -> dict[str, Tensor]:
        """A copy, on the host, of the weights that act at present, by their names in :meth:`state_dict`."""
        with self.acting_weights():
            return {name: weight.detach().to("cpu", copy=True) for name, weight in self.state_dict().items()}

    @contextmanager
    def acting_as(self, snapshot: dict[str, Tensor]) -> Iterator[None]:
        """Within it the agent's weights, and its acting weights, are those of an :meth:`acting_snapshot`."""
        present = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        average, self.average = self.average, MovingAverage(self.ema_decay)
        try:
            self.load_state_dict(snapshot)
            yield
        finally:
            self.load_state_dict(present)
            self.average = average

    def average_shares(self, step: int) -> dict[str, float]:
        """How far gradient step ``step`` (from 1) moves the average of each component that it trains, in [0, 1]."""
        trained = self._trained_groups(step - 1)
        return {group.name: self.average.share(self.schedule.steps_of(group.component, step)) for group in trained}

    def move_average(self, shares: Mapping[str, float | Tensor]) -> None:
        """Moves the average of these components' parameters towards them."""
        self.average.move(self, self.param_groups(), shares)

    # Lightning's hooks.

    def configure_callbacks(self) -> list[L.Callback]:
        """None; Lightning asks before anything is written or started, so that this is where a Trainer is refused."""
        check_trainer(self.trainer)
        return []

    def configure_model(self) -> None:
        """Makes the networks once, from the seed alone, then takes the initial weights that fit, if there are any."""
        if self.action_size is None:
            assert self.facts is not None, "tell an agent of its run first: Agent.meet"
            self.action_size, self.terminates = self.facts.action_size, self.facts.terminates
            self.observation, self.action_scale = self.facts.observation, self.facts.action_scale
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                self.build(self.action_size)
            if self.initial is not None:
                take(self, self.initial)
                self.initial = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a group for each component, and the learning rates' schedule where they are to fall."""
        groups = [{"params": group.parameters, "lr": group.lr, "name": group.name} for group in self.param_groups()]
        optimizer = torch.optim.AdamW(groups, eps=self.adam_eps, fused=True)
        self._set_weight_decay(optimizer)
        if not self.lr_falls:
            return optimizer
        shares: list[Callable[[int], float]] = [partial(self.lr_share, str(group["name"])) for group in groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shares)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _set_weight_decay(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> None:
        """AdamW takes away learning rate times weight decay: its product is to be ours at the present rates."""
        for group in optimizer.param_groups:
            group["weight_decay"] = self.weight_decay / group["lr"] if group["lr"] > 0 else 0.0

    @property
    def lr_falls(self) -> bool:
        """Whether :meth:`lr_share` is ever below 1."""
        return self.final_lr < 1

    def lr_share(self, group: str, step: int) -> float:
        """What is left of a parameter group's learning rate after ``step`` gradient steps; a function of them alone."""
        online = max(0, step - self.schedule.pretraining_steps) / max(1, self.schedule.online_steps)
        return float(1 - (1 - self.final_lr) * min(1.0, online))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips each component's gradient to its own norm; ``trainer.gradient_clip_val`` replaces all of them."""
        norms = {clipping.name: clipping.clip() for clipping in self.clippings(self.global_step, gradient_clip_val)}
        self._norms = norms if self._is_logged else {}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Logs the gradients' norms, from one place: Lightning keeps what each hook has logged apart."""
        self.log_dict({f"grad_norm/{name}": norm for name, norm in self._norms.items()})

    def clippings(self, step: int, limit: float | None = None) -> list[Clipping]:
        """How gradients are clipped at gradient step ``step`` (from 0); ``limit`` replaces all components' own."""
        groups = self._trained_groups(step)
        return [Clipping(g.name, g.modules, g.clip if limit is None else float(limit)) for g in groups]

    def on_train_start(self) -> None:
        """Decides whether graphs take the steps."""
        self._run_capture = RunCapture.of(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Remembers what the step learns from, whose kind says whether a graph can take it."""
        self._batch = batch

    def on_train_epoch_end(self) -> None:
        """Ends the run when all its steps are taken, which a change of the rounds on resume makes another epoch."""
        if self._run_capture is not None:
            self._run_capture.check()
        if self.global_step >= self.schedule.total_steps:
            self.trainer.should_stop = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One gradient step's loss, of the components that the schedule trains at it."""
        if self._captured:
            return self._captured_step(batch, batch_idx)
        components = self.schedule.trains(self.global_step)
        losses, metrics = self.losses_of(components, batch, self.step_key(batch_idx))
        self.step_losses = losses
        total = torch.stack([full(loss) for loss in losses.values()]).sum()
        if self._is_logged:
            logged = self._logged({**losses, **metrics, "loss": total})
            self.log("loss", logged.pop("loss"), prog_bar=True)
            self.log_dict(logged)
        # DistributedDataParallel waits for a gradient of every parameter: an idle one's is of nothing.
        idle = [p.sum() for group in self._idle_groups(self.global_step) for p in group.parameters]
        return total + 0 * torch.stack(idle).sum() if idle else total

    def _captured_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The whole step, by a graph. What it tells is read, and waited for, where it is logged."""
        assert self._run_capture is not None
        outcome = self._run_capture.take(batch, self.step_key(batch_idx))
        self._norms = {}
        if self._is_logged:
            self._run_capture.check()
            self.log_dict({**outcome.losses, **outcome.metrics})
            self._norms = outcome.norms
            self.log("loss", outcome.total, prog_bar=True)
        return outcome.total

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, unless a graph has done it."""
        if not self._captured:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Takes all gradients away, unless they are a graph's."""
        if not self._captured:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the idle components' gradients away: parameters without one, and their state, stay as they are."""
        for group in self._idle_groups(self.global_step):
            for parameter in group.parameters:
                parameter.grad = None

    def on_after_backward(self) -> None:
        """Lets go of the step's graph."""
        self.step_losses = {}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """The step, then target updates and the weights' average, which belong to it.

        Not as the batch ends: callbacks have saved a checkpoint by then.
        """
        self._set_weight_decay(optimizer)
        if self._run_capture is not None and self._run_capture.takes(self._batch):
            assert optimizer_closure is not None
            self._captured = True
            try:
                optimizer_closure()
            finally:
                self._captured = False
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        step = self.global_step + 1  # Lightning counts it when this returns
        if self.schedule.trains(step - 1) != "model":
            self.after_step(self.schedule.steps_of("behaviour", step))
        if self.ema_decay > 0:
            self.move_average(self.average_shares(step))

    def validation_step(self, batch: Batch | Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes the model's losses on held-out episodes. A batch of seeds is rolled, and judged, by a callback."""
        if isinstance(batch, Tensor):
            return
        losses, _ = self.losses_of("model", batch, Key(self.seed, batch_idx, self.share).fold(0xE7A1))
        held_out = {f"held_out/{name}": loss.detach() for name, loss in losses.items()}
        self.log_dict(held_out, add_dataloader_idx=False, on_epoch=True, batch_size=1, sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing: a batch of seeds is rolled, and judged, by a callback."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes what it takes to build this agent again."""
        checkpoint["agent"] = self.description()
        checkpoint["average"] = dict(self.average.weights)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another agent or with other model settings, showing the difference."""
        self.adopt(checkpoint.get("agent") or {})
        check_same_agent(checkpoint.get("agent"), self.description())
        self.loaded_step = int(checkpoint["global_step"])
        self.average.weights = checkpoint.get("average", {})

    def adopt(self, description: dict[str, Any]) -> None:
        """Takes from a checkpoint's :meth:`description` what its run found in its data, before weights are loaded.

        The statistics of state vectors are among the weights, which are read next.
        """
        saved = observation_of(description)
        if saved.layout == self.observation.layout and saved != self.observation:
            self.observation = saved

    # Helpers.

    def _trained_groups(self, step: int) -> list[ParamGroup]:
        """The groups that gradient step ``step`` (from 0) trains."""
        trains = self.schedule.trains(step)
        return [group for group in self.param_groups() if trains in ("all", group.component)]

    def _idle_groups(self, step: int) -> list[ParamGroup]:
        """The other groups."""
        trains = self.schedule.trains(step)
        return [group for group in self.param_groups() if trains not in ("all", group.component)]

    @property
    def _is_logged(self) -> bool:
        """Whether Lightning is given this gradient step's figures: where it writes them down, and as a round ends.

        Taking them costs it a third of a millisecond each, processes wait for each other's, and a device is waited for.
        """
        every = int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]
        return self.trainer.is_last_batch or (every > 0 and (self.global_step + 1) % every == 0)

    def step_key(self, batch_idx: int) -> Key:
        """Names this batch's draws: each batch that a step accumulates has its own, each process its rows of them."""
        accumulate = self.trainer.accumulate_grad_batches
        return Key(self.seed, self.global_step, self.share).fold(batch_idx % accumulate)

    @property
    def share(self) -> Share:
        """This process's, of a batch; all of it outside of a Trainer."""
        if self._trainer is None:
            return Share()
        return Share(self.global_rank, self.global_rank + 1, self.trainer.world_size)

    def _logged(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of all processes together: the means of what each has found in its rows."""
        if self.share.whole:
            return {name: value.detach() for name, value in values.items()}
        found = average(torch.stack([full(value.detach()) for value in values.values()]), self.share)
        return dict(zip(values, found, strict=True))

    def description(self) -> dict[str, Any]:
        """Class, settings, action size, what its actions stand for and what it sees, as plain types."""
        return {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "init_args": plain(self.settings),
            "action_size": self.action_size,
            "action_scale": plain(self.action_scale),
            "observation": plain(self.observation),
        }
