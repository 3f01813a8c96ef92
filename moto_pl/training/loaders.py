"""What a run's data module hands to Lightning: a round's batches, and those of held-out demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import lightning as L

from moto_pl.replay import EpisodeSet, EpisodeStore, PrefetchLoader, SequenceSampler
from moto_pl.replay.parts import Batch, BatchPart
from moto_pl.schedule import Schedule


class RoundLoader:
    """The batches of the round that comes next. Its length is the round's, so Lightning never looks past it.

    Lightning asks for an iterator before a round's episode is there, so nothing is sampled before the first batch is
    asked for. On a resume in the middle of a round it yields the steps that are left.

    Args:
        make: gives the batch of a number.
        trainer: whose gradient steps are counted.
        schedule: the run's.
        prefetch: batches made ahead of need.

    Attributes:
        round: which it is.
    """

    def __init__(self, make: Callable[[int], Batch], trainer: L.Trainer, schedule: Schedule, prefetch: int) -> None:
        self.make, self.trainer, self.schedule, self.prefetch = make, trainer, schedule, prefetch
        self.round = schedule.round_of(trainer.global_step)
        self.accumulate = trainer.accumulate_grad_batches
        self._loader: PrefetchLoader[Batch] | None = None

    def __len__(self) -> int:
        return self.schedule.steps_in(self.round) * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        first, last = self.trainer.global_step, self.schedule.start_of(self.round + 1)
        steps = range(first * self.accumulate, last * self.accumulate)
        on_cuda = self.trainer.strategy.root_device.type == "cuda"
        make = partial(_pinned, self.make) if on_cuda else self.make
        loader = self._loader = PrefetchLoader(make, steps, self.prefetch)
        try:
            yield from loader
        finally:
            loader.close()

    @property
    def wait_seconds(self) -> float:
        """Seconds in which the round's steps have waited for their batches."""
        return 0.0 if self._loader is None else self._loader.wait_seconds

    # Lightning asks for these before it trusts a loader in the middle of an epoch; the position is the trainer's step.
    def state_dict(self) -> dict[str, Any]:
        """Nothing: sampling has no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def _pinned(make: Callable[[int], Batch], index: int) -> Batch:
    """A batch in page-locked memory, from which copies to a CUDA device run asynchronously; what is there stays."""
    return {
        name: part.map(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)
        for name, part in make(index).items()
    }


class HeldOut:
    """A fixed set of batches from the held-out demonstrations.

    Args:
        store: of those.
        seed: keys what is drawn.
        parts: of a batch.
        rank: this process among those that train together.
        world_size: how many those are.
    """

    batches = 4

    def __init__(
        self, store: EpisodeStore, seed: int, parts: Mapping[str, BatchPart], rank: int, world_size: int
    ) -> None:
        self.store, self.seed, self.parts, self.rank, self.world_size = store, seed, parts, rank, world_size

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        entries = [(i, episode.num_rows) for i, episode in enumerate(self.store.known)]
        for step in range(self.batches):
            batch = {}
            for name, part in self.parts.items():
                sampler = SequenceSampler(self.store, self.seed, f"held_out/{name}")
                view = EpisodeSet(entries, part.length)
                size = part.size // self.world_size
                batch[name] = sampler.sample(step, self.rank, self.world_size, size, part.length, view, part.history)
            yield batch
