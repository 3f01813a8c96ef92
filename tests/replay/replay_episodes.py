"""Small episodes whose content says where it comes from."""

from pathlib import Path

import numpy as np

from moto_pl.replay import Episode, EpisodeStore, EpisodeView


def make_episode(
    seed: int, steps: int = 5, terminated: bool = False, size: int = 2, extras: bool = True, vector: int = 0
) -> Episode:
    """Random content; actions of size 2, frames of ``size`` x ``size + 1``, and state vectors of ``vector`` numbers."""
    random = np.random.default_rng(seed)
    return Episode(
        image=random.integers(0, 256, (steps + 1, size, size + 1, 3), dtype=np.uint8),
        action=random.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=random.normal(size=steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=random.random(steps) < 0.5,
        extras={"completed": random.random((steps, 3)) < 0.5, "none": np.zeros((steps, 0))} if extras else {},
        info={"seed": seed, "env_id": "tëst", "share": 0.5, "whole": True},
        vector=np.random.default_rng([seed, 1]).normal(size=(steps + 1, vector)).astype(np.float32) if vector else None,
    )


def assert_same(view: EpisodeView, episode: Episode) -> None:
    """The view holds exactly the episode."""
    for name in ("image", "action", "reward", "success"):
        stored, given = getattr(view, name), getattr(episode, name)
        assert stored.dtype == given.dtype and np.array_equal(stored, given), name
    if episode.vector is None:
        assert view.vector is None
    else:
        assert view.vector is not None and view.vector.dtype == np.float32
        assert np.array_equal(view.vector, episode.vector)
    assert view.extras.keys() == episode.extras.keys()
    for name, array in episode.extras.items():
        assert view.extras[name].dtype == array.dtype and np.array_equal(view.extras[name], array), name
    assert (view.terminated, view.truncated, view.info) == (episode.terminated, episode.truncated, episode.info)
    assert (view.length, view.succeeded) == (episode.length, episode.succeeded)
    assert view.total_reward == episode.total_reward


def filled(root: Path, count: int, steps: int = 5) -> EpisodeStore:
    store = EpisodeStore(root)
    for seed in range(count):
        assert store.append(make_episode(seed, steps)) == seed
    return store


def assert_holds(store: EpisodeStore, seeds: list[int], steps: int = 5) -> None:
    assert len(store) == len(seeds)
    for index, seed in enumerate(seeds):
        assert_same(store[index], make_episode(seed, steps))
    store.verify()
