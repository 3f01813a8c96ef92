"""Episodes on disk, and the batches that are drawn from them.

Names are imported when they are first used: an :class:`Episode` is there without torch, for those that only read data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moto_pl.replay.episode import Episode, Rows, rows
    from moto_pl.replay.episode_file import EpisodeView
    from moto_pl.replay.loader import PrefetchLoader
    from moto_pl.replay.sampler import DeviceMirror, EpisodeSet, Residency, SequenceBatch, SequenceSampler
    from moto_pl.replay.store import EpisodeStore

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

_HOMES = {
    **dict.fromkeys(("Episode", "Rows", "rows"), "episode"),
    **dict.fromkeys(("DeviceMirror", "EpisodeSet", "Residency", "SequenceBatch", "SequenceSampler"), "sampler"),
    "EpisodeStore": "store",
    "EpisodeView": "episode_file",
    "PrefetchLoader": "loader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
