"""A whole gradient step as one CUDA graph: captured once for each kind of step, then replayed on other data.

A graph keeps what it was captured with: the addresses that its kernels read and write, and their arguments. So all that
differs from step to step lies in tensors that stay where they are, and is copied there before each replay:

- the batch, and what the host draws for it (LOMPO's and COMBO's transitions, which lie in the host's memory);
- the keys of all draws (:class:`~moto_pl.ops.KeyTable`);
- :class:`_Numbers`: learning rates, what weight decay leaves, how far the moving average moves, the step's number.

Adam's own step counters are tensors already, which the graph counts up. What decides which kernels run is no number
but a kind of step (:func:`_kind`), of which each has a graph of its own: the batch's shapes, the components that the
schedule trains, and whether targets are copied (``target_every``).

Eager steps come first, and stay for what cannot be captured; the numbers are the same. Nothing here waits for the
device, but for :meth:`CapturedStep.broken`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim.adamw import adamw
from torch.utils import _pytree as pytree

from moto_pl.errors import SettingError
from moto_pl.ops import Key, KeyTable
from moto_pl.schedule import Components

from .param_groups import Clipping

Agent = Any  # base.Agent: that module imports this one

#: Whether a run's steps are captured; ``auto``: where they can be.
CaptureMode = Literal["auto"] | bool

#: Types of the devices that have graphs; tests add the CPU, with :func:`recorded`.
DEVICES = ["cuda"]

#: Eager steps of each kind before its capture: libraries choose their kernels and set up their memory in them.
WARM_UP = 3


class Outcome(NamedTuple):
    """What a step tells, in tensors that the next one overwrites."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    norms: dict[str, Tensor]  # of the gradients before clipping, by component
    total: Tensor


#: A gradient step, taken on what the static tensors hold when it is called.
Step = Callable[[], Outcome]


@cache
def _pool() -> Any:
    """Memory of all graphs: they never run at once, and each one's results are read before the next runs."""
    return torch.cuda.graph_pool_handle()


def cuda_graph(step: Step) -> Step:
    """Captures ``step`` on the device, which does not run it; returns what replays it."""
    graph = torch.cuda.CUDAGraph()
    # Other threads (those that pin a loader's batches) may go on calling the driver meanwhile.
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        outcome = step()

    def replay() -> Outcome:
        graph.replay()
        return outcome

    return replay


def recorded(step: Step) -> Step:
    """Stands in for :func:`cuda_graph` without a device: ``step`` itself, run again with all that it closes over."""
    return step


class _Numbers:
    """A step's numbers in the device's memory; one copy writes them all."""

    def __init__(self, groups: int, device: torch.device) -> None:
        # Adam's kernels take a learning rate in single precision on a GPU, in double on a CPU.
        dtype = torch.float32 if device.type == "cuda" else torch.float64
        self._all = torch.zeros(3 * groups + 1, dtype=dtype, device=device)
        rows = self._all[:-1].view(3, groups)
        self.lr, self.keep, self.average = rows.unbind(0)  # [G] each: rate, share of the weights kept, average's weight
        self.step = self._all[-1]

    def write(self, lr: list[float], keep: list[float], average: list[float], step: int) -> None:
        numbers = torch.tensor([*lr, *keep, *average, float(step)], dtype=self._all.dtype)
        self._all.copy_(numbers, non_blocking=True)  # pageable memory: copied aside before the call returns


@dataclass
class _Static:
    """A kind of step, its inputs' places, and its graph once it is captured."""

    inputs: list[Any]
    structure: Any
    keys: KeyTable
    graph: Step | None = None


class CapturedStep:
    """Takes an agent's gradient steps by graphs.

    Args:
        agent: whose losses, targets and average.
        optimizer: AdamW, whose state earlier steps have made.
        device: where all of it is.
        graphs: what captures a step; by default :func:`cuda_graph` on a GPU and :func:`recorded` elsewhere.
    """

    def __init__(
        self,
        agent: Agent,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        graphs: Callable[[Step], Step] | None = None,
    ) -> None:
        self._agent, self._optimizer, self._device = agent, optimizer, device
        self._graphs = graphs or (cuda_graph if device.type == "cuda" else recorded)
        self._numbers = _Numbers(len(optimizer.param_groups), device)
        self._kinds: dict[Hashable, _Static] = {}
        self._seen: dict[Hashable, int] = {}
        # Steps whose gradient was not finite, by component, and the first of them: read by `broken` alone.
        self._broken = torch.zeros(len(optimizer.param_groups), device=device)
        self._first_broken = torch.full((), -1.0, dtype=self._numbers.step.dtype, device=device)

    def warm(self, batch: Any, components: Components, limits: Sequence[Clipping], behaviour_step: int) -> bool:
        """Whether a step of this kind can be captured; counts the eager one that is taken where it cannot."""
        kind = _kind(self._agent, batch, components, behaviour_step, limits)
        if kind in self._kinds:
            return True
        self._seen[kind] = self._seen.get(kind, 0) + 1
        return self._seen[kind] > WARM_UP

    def take(
        self,
        batch: Any,
        key: Key,
        components: Components,
        limits: Sequence[Clipping],
        step: int = 1,
        behaviour_step: int | None = None,
        average: Sequence[float] | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Outcome:
        """Takes gradient step number ``step`` (from 1).

        Args:
            batch: on the device.
            key: the step's.
            components: that are trained.
            limits: their gradients' clipping.
            step: its number.
            behaviour_step: its number among those that train actor and critics; by default the same.
            average: how far each component's moving average moves, in [0, 1]; None keeps no average.
            autocast: the context that the losses are computed in.

        Returns:
            Losses, metrics and norms.
        """
        behaviour_step = step if behaviour_step is None else behaviour_step
        kind = _kind(self._agent, batch, components, behaviour_step, limits)
        batch = self._agent.drawn_on_host(components, batch, key)
        leaves, structure = pytree.tree_flatten(batch)
        if kind not in self._kinds:
            inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._kinds[kind] = _Static(inputs, structure, KeyTable(self._device))
        static = self._kinds[kind]
        for place, leaf in zip(static.inputs, leaves, strict=True):
            if isinstance(place, Tensor):
                place.copy_(leaf, non_blocking=True)
        groups = self._optimizer.param_groups
        rates = [float(group["lr"]) for group in groups]
        keep = [1 - group["lr"] * group["weight_decay"] for group in groups]
        self._numbers.write(rates, keep, list(average or [0.0] * len(groups)), step)
        if static.graph is None:
            self._make_state()
            names = {limit.name for limit in limits}
            trained = [i for i, group in enumerate(groups) if group.get("name") in names]
            static.graph = self._graphs(
                lambda: self._step(static, components, limits, trained, behaviour_step, average is not None, autocast)
            )
        # After the capture, in which keys have got their rows.
        static.keys.write(key)
        return static.graph()

    def _step(
        self,
        static: _Static,
        components: Components,
        limits: Sequence[Clipping],
        trained: list[int],
        behaviour_step: int,
        averages: bool,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Outcome:
        """The step itself; ``behaviour_step`` stands for its kind: whether targets are copied."""
        agent = self._agent
        batch = pytree.tree_unflatten(static.inputs, static.structure)
        with torch.enable_grad(), autocast():
            losses, metrics = agent.losses_of(components, batch, static.keys.base())
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # backward makes it anew, in the graph's memory
        # As after an eager step's losses: gradients and updates are in each tensor's own precision.
        with torch.autocast(self._device.type, enabled=False):
            total.backward()
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            norms = {limit.name: limit.clip() for limit in limits}
            broken = self._note_broken(norms)
            for i in trained:
                self._adamw(i, broken)
            if components != "model":
                agent.after_step(behaviour_step)
            if averages:
                shares = self._numbers.average.float()
                agent.move_average({str(self._optimizer.param_groups[i]["name"]): shares[i] for i in trained})
        detached = {name: value.detach() for name, value in losses.items()}
        return Outcome(detached, {name: value.detach() for name, value in metrics.items()}, norms, total.detach())

    def _note_broken(self, norms: dict[str, Tensor]) -> Tensor:
        """Counts where a gradient is not finite; returns 1 if one is not, else 0: float []."""
        none = torch.zeros((), device=self._device)
        names = [str(group["name"]) for group in self._optimizer.param_groups]
        found = torch.stack([(~norms[name].isfinite()).float() if name in norms else none for name in names])
        self._broken.add_(found)
        broken = found.amax()
        first = (broken > 0) & (self._first_broken < 0)
        self._first_broken.copy_(torch.where(first, self._numbers.step, self._first_broken))
        return broken

    def _adamw(self, index: int, broken: Tensor) -> None:
        """AdamW with rate and decay from :class:`_Numbers`; where a gradient is not finite it changes nothing."""
        group = self._optimizer.param_groups[index]
        parameters = [p for p in group["params"] if p.grad is not None]
        states = [self._optimizer.state[p] for p in parameters]
        if self._agent.weight_decay > 0:
            keep = self._numbers.keep[index]
            torch._foreach_mul_(
                parameters, torch.where(broken > 0, torch.ones_like(keep), keep).to(parameters[0].dtype)
            )
        adamw(
            list(parameters),
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=False,
            capturable=True,
            differentiable=False,
            fused=True,
            grad_scale=None,
            found_inf=broken,
            has_complex=False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=self._numbers.lr[index],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _make_state(self) -> None:
        """Adam's state of parameters that no step has had yet, as AdamW makes it."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                state = self._optimizer.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)

    def broken(self) -> tuple[int, list[str], int] | None:
        """Waits for the device: steps since the last call whose gradient was not finite.

        Returns:
            How many there were, of which components, and the first one's number; None where there was none.
        """
        first = int(self._first_broken)
        if first < 0:
            return None
        counts = self._broken.tolist()
        names = [str(group["name"]) for group, n in zip(self._optimizer.param_groups, counts, strict=True) if n]
        self._broken.zero_()
        self._first_broken.fill_(-1)
        return int(max(counts)), names, first


def _kind(
    agent: Agent, batch: Any, components: Components, behaviour_step: int, limits: Sequence[Clipping]
) -> Hashable:
    """What decides which kernels a step consists of."""
    leaves, structure = pytree.tree_flatten(batch)
    shapes = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    clips = tuple((limit.name, limit.limit) for limit in limits)
    return shapes, str(structure), components, agent.copies_targets(behaviour_step), clips


# Of a run.

#: Hooks of callbacks that look at what a captured step does not show.
_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")


class RunCapture:
    """Takes a run's gradient steps by graphs, where that can be.

    A callback with one of the hooks around the backward pass says by ``eager_at(step)`` at which steps it needs them to
    be called; one that does not say keeps all steps eager.

    Args:
        agent: within ``Trainer.fit``.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent, self._steps = agent, CapturedStep(agent, agent.trainer.optimizers[0], agent.device)
        self._callbacks = [callback for callback in agent.trainer.callbacks if hasattr(callback, "eager_at")]

    @classmethod
    def of(cls, agent: Agent) -> RunCapture | None:
        """The run's, as ``agent.capture`` asks; None where all steps are eager.

        Raises:
            SettingError: naming ``capture``, where it is true and they cannot be captured.
        """
        reason = _why_eager(agent)
        if agent.capture is False or (agent.capture == "auto" and agent.device.type not in DEVICES):
            return None
        if reason is not None and agent.capture is True:
            raise SettingError("capture", "true", f"Set it to auto or false: {reason}.")
        rank_zero_info(
            f"capture: {str(agent.capture).lower()}: "
            + (f"steps are eager: {reason}" if reason else "steps are CUDA graphs")
        )
        return None if reason else cls(agent)

    def takes(self, batch: Any) -> bool:
        """Whether a graph can take the present step."""
        agent, step = self._agent, self._agent.global_step
        if any(callback.eager_at(step) for callback in self._callbacks):
            return False
        components = agent.schedule.trains(step)
        return self._steps.warm(batch, components, self._clippings, self._behaviour_step)

    def take(self, batch: Any, key: Key) -> Outcome:
        """Takes the present step."""
        agent, step = self._agent, self._agent.global_step
        average = agent.average_shares(step + 1) if agent.ema_decay > 0 else None
        names = [str(group["name"]) for group in agent.trainer.optimizers[0].param_groups]
        return self._steps.take(
            batch,
            key,
            agent.schedule.trains(step),
            self._clippings,
            step + 1,
            self._behaviour_step,
            None if average is None else [average.get(name, 0.0) for name in names],
        )

    @property
    def _clippings(self) -> list[Clipping]:
        return self._agent.clippings(self._agent.global_step, self._agent.trainer.gradient_clip_val)

    @property
    def _behaviour_step(self) -> int:
        return self._agent.schedule.steps_of("behaviour", self._agent.global_step + 1)

    def check(self) -> None:
        """Waits for the device: tells the callback that counts them of steps whose gradient was not finite."""
        if (found := self._steps.broken()) is None:
            return
        told = [callback for callback in self._callbacks if hasattr(callback, "left_out")]
        for callback in told:
            callback.left_out(*found)
        if not told:
            rank_zero_warn(f"gradient: not finite for {', '.join(found[1])} at {found[0]} step(s), which are left out.")


def _why_eager(agent: Agent) -> str | None:
    """What keeps a run's steps from being captured; None where nothing does."""
    trainer = agent.trainer
    if agent.device.type not in DEVICES:
        return f"{agent.device.type} has no CUDA graphs"
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return "several processes reduce their gradients between backward and clipping"
    if trainer.accumulate_grad_batches > 1:
        return f"trainer.accumulate_grad_batches: {trainer.accumulate_grad_batches} steps once in several batches"
    precision = trainer.precision_plugin
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        return "16-mixed scales its losses on the host"
    if torch.is_anomaly_enabled():
        return "trainer.detect_anomaly looks at each operation"
    for callback in trainer.callbacks:
        watches = any(_overrides(callback, hook) for hook in _HOOKS)
        if watches and not hasattr(callback, "eager_at"):
            return f"{type(callback).__name__} looks at each step's backward pass"
    return None


def _overrides(callback: L.Callback, hook: str) -> bool:
    """Whether a callback has this hook, from its class or, as LambdaCallback, as an attribute of its own."""
    return getattr(getattr(callback, hook), "__func__", None) is not getattr(L.Callback, hook)
