"""What callbacks know of a run: its data and its agent, seen through Lightning's trainer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import lightning as L
import torch

from moto_pl import signals
from moto_pl.agents.base import Agent, RoundData
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Schedule

T = TypeVar("T")


class RunData(RoundData, Protocol):
    """A run's data module, as far as callbacks ask it something."""

    schedule: Schedule
    dataset: str | None
    offline_episodes: int
    before_fit: bool
    longest_demonstration: int | None
    demonstrated: Observation | None
    demonstrated_scale: ActionScale | None
    terminates: bool
    writes: bool
    round_wait_seconds: float
    can_sample: bool

    def refresh(self) -> None:
        """Takes the store's new episodes into what batches are drawn from."""

    def demonstration_shares(self) -> dict[str, float]:
        """Which share of each part's sequences comes from demonstrations."""

    def preview(self, count: int) -> SequenceBatch:
        """``count`` sequences for pictures."""


def run_data(trainer: L.Trainer) -> RunData:
    """The trainer's data module."""
    return cast(RunData, cast(Any, trainer).datamodule)


def run_agent(module: L.LightningModule) -> Agent:
    """The module, which is an agent."""
    return cast(Agent, module)


def fitting(trainer: L.Trainer) -> bool:
    """Whether the trainer trains, an evaluation within training included."""
    return trainer.state.fn == "fit"


def gathered(trainer: L.Trainer, own: T) -> list[T]:
    """What each process has, in the order of their ranks. All of them call it; what they have is pickled."""
    if trainer.world_size == 1:
        return [own]
    of_all: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(of_all, own)
    return of_all


@contextmanager
def stopping_together(trainer: L.Trainer) -> Iterator[None]:
    """Rolling in which a signal to one process ends all, before the others wait for its episodes."""
    stopped: signals.Stopped | None = None
    try:
        yield
    except signals.Stopped as error:
        stopped = error
    if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(stopped is not None, all=False):
        stopped = stopped or signals.Stopped(signal.SIGTERM)
    if stopped is not None:
        raise stopped
