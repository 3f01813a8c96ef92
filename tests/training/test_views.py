"""Which episodes a part of a batch is drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moto_pl.replay import Episode, EpisodeStore
from moto_pl.replay.parts import BatchPart
from moto_pl.training.views import Views


def append(store: EpisodeStore, reward: float) -> None:
    frames, actions = np.zeros((7, 2, 2, 3), np.uint8), np.zeros((6, 1), np.float32)
    store.append(Episode(frames, actions, np.full(6, reward, np.float32), False, True, np.zeros(6, bool)))


@pytest.mark.parametrize(("top", "least", "kept"), [(0.5, 1, [1, 3]), (0.1, 1, [3]), (0.1, 3, [1, 2, 3])])
def test_the_best_by_return_and_no_fewer_than_asked(tmp_path: Path, top: float, least: int, kept: list[int]) -> None:
    store = EpisodeStore(tmp_path)
    for reward in (1.0, 3.0, 2.0, 4.0):
        append(store, reward)
    view = Views(store, 4, ()).of("clone", BatchPart(4, 3, "return", top, least))
    assert view.episodes.tolist() == kept and view.rows.tolist() == [7] * len(kept)


def test_what_is_remembered_grows_by_an_episode_a_round(tmp_path: Path) -> None:
    """The threshold on the return moves in every round: what it was is of no use again."""
    store = EpisodeStore(tmp_path)
    views, parts = Views(store, 0, ()), [BatchPart(4, 3, "return", 0.5), BatchPart(4, 3, "advantage")]
    for round_ in range(1, 8):
        append(store, float(round_))
        for part in parts:
            views.of("clone", part)
        assert sum(len(value) for value in vars(views).values() if isinstance(value, dict)) <= len(store)
