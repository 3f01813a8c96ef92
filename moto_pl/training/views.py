"""Which of the episodes known, and how many of their rows, each part of a batch is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeSet, EpisodeStore
from moto_pl.replay.filters import keep_rows, records_all_objects, return_threshold
from moto_pl.replay.parts import BatchPart


class Views:
    """Makes the parts' views of a replay; says once what they leave out.

    Args:
        store: the replay.
        offline_episodes: how many of its first episodes are demonstrations.
        objects: names of the task's objects; empty where it has none.
    """

    def __init__(self, store: EpisodeStore, offline_episodes: int, objects: tuple[str, ...]) -> None:
        self.store, self.offline_episodes, self.objects = store, offline_episodes, objects
        self._kept: dict[tuple[str, int], int] = {}  # rows, by filter and episode
        self._left_out: dict[str, int] = {}
        self._warned = False

    def of(self, name: str, part: BatchPart) -> EpisodeSet:
        """The present view of a part: the episodes that pass its filter, or all where none of its length does."""
        threshold = -float("inf")
        if part.filter == "return":
            returns = [float(self.store[i].reward.sum()) for i in range(len(self.store))]
            threshold = return_threshold(returns, part.top, part.least)
        if part.filter in ("auto", "progress"):
            self._warn_of_unseen_objects()
        entries = []
        for i, episode in enumerate(self.store.known):
            if part.filter == "none":  # all of it, which no file has to be opened for
                entries.append((i, episode.num_rows))
                continue
            key = (part.filter, episode.crc)
            rows = self._kept.get(key)
            if rows is None:
                rows = keep_rows(self.store[i], part.filter, threshold, self.objects)
                if part.filter != "return":  # whose threshold moves from round to round
                    self._kept[key] = rows
            if rows:
                entries.append((i, rows))
        if len(self.store) and part.filter != "none" and all(rows < part.length for _, rows in entries):
            rank_zero_warn(
                f"No episode of at least {part.length} rows passes the filter '{part.filter}': "
                f"the '{name}' batches come from all data."
            )
            entries = [(i, episode.num_rows) for i, episode in enumerate(self.store.known)]
        view = EpisodeSet(entries, part.length, self.offline_episodes)
        if view.left_out and self._left_out.get(name, 0) != view.left_out:
            self._left_out[name] = view.left_out
            rank_zero_warn(
                f"{view.left_out} of {len(entries)} episodes are shorter than the {part.length} rows of a '{name}' "
                "sequence: they are left out."
            )
        return view

    def _warn_of_unseen_objects(self) -> None:
        """Says once in how many episodes the filter ``progress`` sees but the task's own objects, or none."""
        if self._warned or not self.objects or not set(self.objects) <= set(KITCHEN_OBJECTS):
            return
        count = len(self.store)
        unseen = sum(not records_all_objects(self.store[i], self.objects) for i in range(count))
        if unseen:
            self._warned = True
            rank_zero_warn(
                f"{unseen} of {count} episodes do not record which of the kitchen's seven objects are in place "
                "(in_place): there the filter 'progress' cannot see work on objects that are not the task's. "
                "docs/kitchen.md says which datasets record them."
            )


def fitted_parts(
    parts: dict[str, BatchPart], longest: int, given_settings: Callable[[], Collection[str]] | None
) -> dict[str, BatchPart]:
    """The agent's parts, where a default length is not longer than an episode of ``longest`` rows.

    Args:
        parts: as the agent asks for them.
        longest: rows of the longest of the first episodes.
        given_settings: the agent's settings that the user has given, which are not changed; None: all of them.

    Raises:
        SettingError: a length that was given is longer.
    """
    fitted = dict(parts)
    for name, part in parts.items():
        if part.length <= longest:
            continue
        setting = part.length_setting.format(name)
        # Rows that stand for one observation, as those with a history do, cannot be fewer.
        if part.history or given_settings is None or setting in given_settings():
            found = f"sequences of {part.length} rows, and the longest episode has {longest} rows"
            raise SettingError(f"model.init_args.{setting}", found, "Give less, or longer episodes.")
        rank_zero_info(
            f"model.init_args.{setting}: {longest} in place of the default {part.length}, because the longest "
            f"episode has {longest} rows"
        )
        fitted[name] = replace(part, length=longest)
    return fitted
