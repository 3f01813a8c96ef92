"""The parts of a training batch, and what a data module has to know of those who learn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from moto_pl.replay.filters import EpisodeFilter
from moto_pl.replay.sampler import SequenceBatch
from moto_pl.schedule import Component

Batch = dict[str, SequenceBatch]


@dataclass(frozen=True)
class BatchPart:
    """One part of a training batch: what an agent asks of the replay.

    Attributes:
        size: sequences, over all ranks.
        length: rows of each sequence.
        filter: which episodes they come from.
        top: share of the best episodes for ``filter: return``.
        least: episodes that it keeps at least.
        history: rows before an episode's start at which sequences may begin; they repeat its first.
        size_setting: what gives ``size``, under ``model.init_args``; {} is the part's name.
        length_setting: what gives ``length``, or decides it.
        component: what is trained on it.
    """

    size: int
    length: int
    filter: EpisodeFilter = "none"
    top: float = 0.1
    least: int = 1
    history: int = 0
    size_setting: str = "batch.{}_size"
    length_setting: str = "batch.{}_length"
    component: Component = "behaviour"


class Learner(Protocol):
    """What learns from the batches, as far as a data module has to know it."""

    has_world_model: bool

    def parts(self) -> dict[str, BatchPart]:
        """The parts of a training batch, by name."""
