"""What callbacks know of a run: its data and its agent, seen through Lightning's trainer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import lightning as L

from moto_pl import signals
from moto_pl.agents.base import Agent, RoundData
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Schedule


class RunData(RoundData, Protocol):
    """A run's data module, as far as callbacks ask it something."""

    schedule: Schedule
    dataset: str | None
    offline_episodes: int
    before_fit: bool

    @property
    def longest_demonstration(self) -> int | None:
        """Steps of the longest demonstration; None where there is none."""

    @property
    def terminates(self) -> bool:
        """Whether a demonstration ends early."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes what its machine's disk holds."""

    @property
    def round_wait_seconds(self) -> float:
        """Seconds in which the present round's steps have waited for their batches."""

    def refresh(self) -> None:
        """Takes the store's new episodes into what batches are drawn from."""

    def demonstration_shares(self) -> dict[str, float]:
        """Which share of each part's sequences comes from demonstrations."""

    @property
    def can_sample(self) -> bool:
        """Whether there are sequences to look at."""

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
