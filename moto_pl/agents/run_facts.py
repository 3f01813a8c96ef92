"""What an agent has to know of its run, and may look at in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.replay.store import EpisodeStore
from moto_pl.schedule import Schedule


@dataclass(frozen=True)
class RunFacts:
    """What an agent has to know of its run before its networks are made.

    Attributes:
        action_size: A, of the environment's actions.
        terminates: whether a demonstration ends early.
        schedule: of gradient steps.
        writes: whether this process is the one that writes what its machine's disk holds.
        observation: what it sees.
        action_scale: what its actions stand for in the environment; None: themselves.
    """

    action_size: int
    terminates: bool
    schedule: Schedule
    writes: bool = True
    observation: Observation = Observation()
    action_scale: ActionScale | None = None


class RoundData(Protocol):
    """What an agent may look at as a round begins."""

    store: EpisodeStore

    @property
    def collected_end_early(self) -> bool:
        """Whether one of the newest round's episodes terminated."""

    def common_batch(self, name: str, part: str, count: int) -> SequenceBatch:
        """``count`` sequences of a part's data, drawn for the use ``name``, the same on every process."""
