"""Where a training step's time goes, by part of the agent: ``python -m benchmarks.train_step --profile``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent

#: What counts as which part: functions by their place. What is called within another part counts as its own.
PARTS = {
    "encoder": ("moto_pl.nn.image.Encoder.forward", "moto_pl.nn.image.PixelEncoder.forward"),
    "decoder": ("moto_pl.nn.image.Decoder.forward",),
    "image loss": ("moto_pl.nn.world_model.squared_error",),
    "observe": ("moto_pl.nn.world_model.RSSM.observe",),
    "priors and KL": ("moto_pl.nn.world_model.RSSM.priors", "moto_pl.nn.world_model.WorldModel._kl"),
    "reward": ("moto_pl.nn.world_model.WorldModel.predict_reward",),
    "imagine": ("moto_pl.agents.model_based.imagine",),
    "critics": (
        "moto_pl.nn.actor_critic.QEnsemble.forward",
        "moto_pl.nn.actor_critic.QEnsemble.target_value",
        "moto_pl.nn.actor_critic.QEnsemble.actor_value",
        "moto_pl.agents.model_free.TwinCritic.forward",
    ),
    "actor": ("moto_pl.nn.actor_critic.Actor.dist", "moto_pl.agents.model_free.Head.forward"),
    "shifts": ("moto_pl.agents.model_free.random_shift",),
}
_PREFIX, _BACKWARD = "part: ", "autograd::engine::evaluate_function: "
_REST, _OPTIMIZER = "everything else", "optimizer"


def profile_parts(step: Callable[[], None], steps: int) -> dict[str, tuple[float, float]]:
    """Milliseconds a step, forward and backward, of each part."""
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for place in places:
                stack.enter_context(mock.patch(place, _recorded(part, _look_up(place))))
        for _ in range(3):
            step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                with record_function(_PREFIX + _REST):
                    step()
    return _by_part(profiler.events() or [], steps)


def print_parts(case: str, parts: dict[str, tuple[float, float]]) -> None:
    """Prints the parts as a table, the longest first; the profiler's own time is in it."""
    total = sum(map(sum, parts.values()))
    table = Table(title=f"{case}: {total:.0f} ms a step, {torch.get_num_threads()} threads")
    for column in ("part", "forward, ms", "backward, ms", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, (forward, backward) in sorted(parts.items(), key=lambda item: -sum(item[1])):
        table.add_row(part, f"{forward:.1f}", f"{backward:.1f}", f"{(forward + backward) / total:.0%}")
    Console(width=120).print(table)


def _look_up(place: str) -> Callable[..., Any]:
    owner, _, name = place.rpartition(".")
    target, _ = mock._get_target(f"{owner}.{name}")  # type: ignore[attr-defined]
    found: Callable[..., Any] = getattr(target(), name)
    return found


def _recorded(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(*arguments: Any, **named: Any) -> Any:
        with record_function(_PREFIX + part):
            return function(*arguments, **named)

    return recorded


def _by_part(events: list[FunctionEvent], steps: int) -> dict[str, tuple[float, float]]:
    """Forward: a part's time less that of the parts within it. Backward: that of the graph's nodes which it made."""
    forward: defaultdict[str, float] = defaultdict(float)
    backward: defaultdict[str, float] = defaultdict(float)
    maker: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        part = _part_of(event)
        if event.name.startswith(_PREFIX):
            forward[part] += event.cpu_time_total
            above = _part_of(event.cpu_parent) if event.cpu_parent else None
            if above is not None:
                forward[above] -= event.cpu_time_total
        elif event.name.startswith("Optimizer."):
            forward[_OPTIMIZER] += event.cpu_time_total
            forward[part] -= event.cpu_time_total
        elif event.sequence_nr >= 0 and not event.name.startswith(_BACKWARD) and event.scope == 0:
            # Operators that make no node carry the number of the next one: the last of them made it.
            maker[event.sequence_nr] = part
    # The engine runs on the caller's thread on a CPU: its nodes lie within the step.
    for event in events:
        if event.name.startswith(_BACKWARD):
            backward[maker.get(event.sequence_nr, _REST)] += event.cpu_time_total
            forward[_part_of(event)] -= event.cpu_time_total
    return {part: (forward[part] / steps / 1000, backward[part] / steps / 1000) for part in {**forward, **backward}}


def _part_of(event: FunctionEvent | None) -> str:
    while event is not None:
        if event.name.startswith(_PREFIX):
            return event.name.removeprefix(_PREFIX)
        event = event.cpu_parent
    return _REST
