"""Which episodes, and how much of each, behaviour cloning may copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.replay.episode import DETOUR, completion_order
from moto_pl.replay.episode_file import EpisodeView

EpisodeFilter = Literal["auto", "success", "progress", "return", "advantage", "none"]

#: Steps kept after the last completion that was in order (authors' replay code).
PROGRESS_MARGIN = 10


def keep_rows(
    episode: EpisodeView, rule: EpisodeFilter, return_threshold: float = -np.inf, objects: Sequence[str] = ()
) -> int:
    """How many rows of an episode, from its start, are cloned.

    Args:
        episode: a stored episode of T steps, T + 1 rows.
        rule: ``success`` keeps episodes that reach success, whole. ``progress`` takes every object of the kitchen, the
            task's or not, that is in place at the episode's last step, in the order in which they were first completed.
            While the next of them is the task's next object, the prefix up to ten steps after its completion is kept;
            the first that is not ends it. So what was undone for good counts for nothing, and work on an object that
            is not the task's is not cloned. Of objects completed at one step the task's next comes first; one that is
            in place from the start was completed at the first step. Where an episode records the task's objects alone
            (``completed`` and no ``in_place``), the rule goes by these; where it records none, success is the only
            object, and first success counts, undone or not. ``return`` keeps episodes whose return is at least
            ``return_threshold``. ``advantage`` and ``none`` keep all (the advantage is judged step by step in the
            loss). ``auto`` is ``progress`` where the episode records objects, else ``success``.
        return_threshold: for ``return``.
        objects: the task's objects in the task's order, as :func:`moto_pl.envs.task_objects` gives them; for
            ``progress``.

    Returns:
        A number of rows, 0 for an episode that is not cloned, as one with a detour, which ``none`` alone keeps
        (:mod:`moto_pl.rollout.explore`).
    """
    if rule != "none" and DETOUR in episode.extras and np.any(episode.extras[DETOUR]):
        return 0  # what was held there is nothing to copy
    recorded = recorded_objects(episode, objects)
    if rule == "auto":
        rule = "success" if recorded is None else "progress"
    rows = len(episode.image)
    if rule == "success":
        return rows if bool(np.any(episode.success)) else 0
    if rule == "return":
        return rows if float(np.sum(episode.reward)) >= return_threshold else 0
    if rule == "progress":
        if recorded is not None:
            return _up_to(_last_in_order(*recorded), rows)
        return _up_to(int(np.argmax(episode.success)) if np.any(episode.success) else None, rows)
    return rows


def recorded_objects(episode: EpisodeView, objects: Sequence[str]) -> tuple[np.ndarray, list[int]] | None:
    """What an episode records of objects.

    Args:
        episode: of T steps.
        objects: the task's, in the task's order.

    Returns:
        Which objects are in place after each step, bool [T, N], and which of the N are the task's, in the task's order:
        all of the kitchen's (``in_place``) where they are recorded, else the task's alone (``completed``); None where
        the episode records none.
    """
    if records_all_objects(episode, objects):
        in_place = np.asarray(episode.extras["in_place"], dtype=bool)
        return in_place, [KITCHEN_OBJECTS.index(name) for name in objects]
    if "completed" not in episode.extras:
        return None
    completed = np.asarray(episode.extras["completed"], dtype=bool).reshape(episode.length, -1)
    return completed, list(range(completed.shape[1]))


def records_all_objects(episode: EpisodeView, objects: Sequence[str]) -> bool:
    """Whether an episode of a kitchen task says of all seven objects when they are in place."""
    in_place = episode.extras.get("in_place")
    of_kitchen = bool(objects) and set(objects) <= set(KITCHEN_OBJECTS)
    return of_kitchen and in_place is not None and in_place.shape[1:] == (len(KITCHEN_OBJECTS),)


def return_threshold(returns: list[float], share: float, least: int = 1) -> float:
    """The return that the best ``share`` (0 to 1] of the episodes reach, and at least ``least`` of them."""
    if not returns:
        return -np.inf
    ordered = sorted(returns, reverse=True)
    return ordered[min(len(ordered), max(least, round(share * len(ordered)))) - 1]


def _last_in_order(in_place: np.ndarray, wanted: Sequence[int]) -> int | None:
    """Step of the last completion in the order ``wanted``, columns of ``in_place`` [T, N]; None if there is none."""
    last = None
    for (column, step), next_wanted in zip(completion_order(in_place, wanted), wanted, strict=False):
        if column != next_wanted:
            break
        last = step
    return last


def _up_to(step: int | None, rows: int) -> int:
    """Rows up to ten steps after a step, which led to row ``step + 1``; none for None."""
    return 0 if step is None else min(rows, step + 1 + PROGRESS_MARGIN + 1)
