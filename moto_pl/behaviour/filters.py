"""Which episodes, and how much of each, behaviour cloning may copy."""

from __future__ import annotations

from typing import Literal

import numpy as np

from moto_pl.replay.store import EpisodeView

EpisodeFilter = Literal["auto", "success", "progress", "return", "advantage", "none"]

#: Steps kept after the last completion that was in order (authors' replay code).
PROGRESS_MARGIN = 10


def keep_rows(episode: EpisodeView, rule: EpisodeFilter, return_threshold: float = -np.inf) -> int:
    """How many rows of an episode, from its start, are cloned.

    Args:
        episode: a stored episode of T steps, T + 1 rows.
        rule: ``success`` keeps episodes that reach success, whole. ``progress`` follows the order in which the task's
            objects were first completed: while it is the task's own order, the prefix up to ten steps after the last
            such completion is kept; where no objects are recorded, success is the only one. ``return`` keeps episodes
            whose return is at least ``return_threshold``. ``advantage`` and ``none`` keep all (the advantage is judged
            step by step in the loss). ``auto`` is ``progress`` where the episode records completed objects, else
            ``success``.
        return_threshold: for ``return``.

    Returns:
        A number of rows, 0 for an episode that is not cloned.
    """
    if rule == "auto":
        rule = "progress" if "completed" in episode.extras else "success"
    rows = len(episode.image)
    if rule == "success":
        return rows if bool(np.any(episode.success)) else 0
    if rule == "return":
        return rows if float(np.sum(episode.reward)) >= return_threshold else 0
    if rule == "progress":
        completed = np.asarray(episode.extras.get("completed", episode.success), dtype=bool)
        return min(rows, _in_order(completed.reshape(len(completed), -1)))
    return rows


def return_threshold(returns: list[float], share: float) -> float:
    """The return that the best ``share`` (0 to 1] of the episodes reach."""
    if not returns:
        return -np.inf
    ordered = sorted(returns, reverse=True)
    return ordered[max(1, round(share * len(ordered))) - 1]


def _in_order(completed: np.ndarray) -> int:
    """Rows up to ten steps after the last object first completed in the task's order; ``completed`` is [T, objects]."""
    first = np.where(completed.any(0), completed.argmax(0), np.iinfo(np.int64).max)
    last = -1
    for i, step in enumerate(first):
        later = first[i + 1 :]
        if step == np.iinfo(np.int64).max or np.any(later < step):
            break
        last = int(step)
    # Step t led to row t + 1.
    return 0 if last < 0 else last + 1 + PROGRESS_MARGIN + 1
