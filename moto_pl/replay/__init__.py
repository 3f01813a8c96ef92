"""Episodes on disk, and the batches that are drawn from them."""

from moto_pl.replay.episode import Episode, Rows, rows
from moto_pl.replay.loader import PrefetchLoader
from moto_pl.replay.sampler import DeviceMirror, EpisodeSet, Residency, SequenceBatch, SequenceSampler
from moto_pl.replay.store import EpisodeStore, EpisodeView

__all__ = [
    "DeviceMirror",
    "Episode",
    "EpisodeSet",
    "EpisodeStore",
    "EpisodeView",
    "PrefetchLoader",
    "Residency",
    "Rows",
    "SequenceBatch",
    "SequenceSampler",
    "rows",
]
