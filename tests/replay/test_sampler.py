import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from replay_episodes import make_episode

from moto_pl.errors import SettingError
from moto_pl.replay import DeviceMirror, EpisodeSet, EpisodeStore, SequenceBatch, SequenceSampler, rows
from moto_pl.replay import sampler as sampler_module
from moto_pl.replay import store as store_module
from moto_pl.replay.episode_file import will_need

LENGTHS = [9, 4, 12, 7, 3, 10]


@pytest.fixture(scope="module", params=[0, 3], ids=["frames", "vectors"])
def vector(request: pytest.FixtureRequest) -> int:
    """Numbers of the state vectors."""
    return int(request.param)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, vector: int) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("replay"))
    for seed, steps in enumerate(LENGTHS):
        store.append(make_episode(seed, steps, terminated=seed % 2 == 0, vector=vector))
    return store


def whole(store: EpisodeStore, length: int, first_online: int | None = None) -> EpisodeSet:
    return EpisodeSet([(i, store[i].num_rows) for i in range(len(store))], length, first_online)


def equal(one: SequenceBatch, other: SequenceBatch) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all((a is None) == (b is None) for a, b in pairs) and all(
        torch.equal(a, b) for a, b in pairs if a is not None
    )


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic, as standard deviations from its mean."""
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def test_batches_hold_whole_rows_of_one_episode(store: EpisodeStore, vector: int) -> None:
    learner = [rows(make_episode(seed, steps, seed % 2 == 0, vector=vector)) for seed, steps in enumerate(LENGTHS)]
    sampler, view = SequenceSampler(store, 3, "model"), whole(store, 4)
    firsts = terminals = 0
    for step in range(40):
        batch = sampler.sample(step, 0, 1, 8, 4, view)
        assert batch.image.shape == (8, 4, 3, 2, 3) and batch.image.dtype == torch.uint8
        assert batch.action.shape == (8, 4, 2) and batch.reward.shape == batch.is_first.shape == (8, 4)
        parts = [tensor for tensor in batch if tensor is not None]
        assert len(parts) == 5 + bool(vector) and all(tensor.is_contiguous() for tensor in parts)
        assert batch.vector is None or batch.vector.shape == (8, 4, vector)
        episodes, starts = sampler.draw(step, 0, 1, 8, 4, view)
        for b, (episode, start) in enumerate(zip(episodes, starts, strict=True)):
            for tensor, array in zip(parts, learner[episode][: len(parts)], strict=True):
                # A chunk that crossed the end would be shorter, and not equal.
                assert np.array_equal(tensor[b].numpy(), array[start : start + 4])
        firsts += int(batch.is_first.sum())
        terminals += int(batch.is_terminal.sum())
    assert firsts > 10 and terminals > 10


def test_a_batch_depends_on_its_arguments_alone(store: EpisodeStore, tmp_path: Path) -> None:
    view = whole(store, 3)
    reference = SequenceSampler(store, 1, "agent").sample(5, 0, 1, 8, 3, view)
    sampler = SequenceSampler(EpisodeStore(store.root), 1, "agent")
    for step in (9, 2, 5):
        batch = sampler.sample(step, 0, 1, 8, 3, EpisodeSet(reversed(list(entries(view))), 3))
    assert equal(batch, reference)
    others = [
        SequenceSampler(store, 2, "agent").sample(5, 0, 1, 8, 3, view),
        SequenceSampler(store, 1, "clone").sample(5, 0, 1, 8, 3, view),
        SequenceSampler(store, 1, 0).sample(5, 0, 1, 8, 3, view),
        SequenceSampler(store, 1, "agent").sample(6, 0, 1, 8, 3, view),
        SequenceSampler(store, 1, "agent").sample(5, 1, 2, 8, 3, view),
        SequenceSampler(store, 1, "agent").sample(5, 0, 1, 8, 3, EpisodeSet([(0, 10), (2, 13)], 3)),
    ]
    assert not any(equal(other, reference) for other in others)


def entries(view: EpisodeSet) -> list[tuple[int, int]]:
    return list(zip(view.episodes.tolist(), view.rows.tolist(), strict=True))


def test_known_draws(store: EpisodeStore) -> None:
    # A change here breaks the resume of every run that exists.
    episodes, starts = SequenceSampler(store, 0, 1).draw(2, 0, 1, 6, 4, whole(store, 4))
    assert (episodes.tolist(), starts.tolist()) == ([5, 1, 4, 3, 0, 4], [7, 0, 0, 0, 4, 0])


def test_ranks_draw_together_what_one_draws(store: EpisodeStore) -> None:
    view = whole(store, 4, first_online=3)
    for fraction in (None, 0.3):
        sampler = SequenceSampler(store, 0, "model", fraction)
        alone = sampler.sample(7, 0, 1, 12, 4, view)
        for world in (2, 3, 4):
            parts = [sampler.sample(7, rank, world, 12 // world, 4, view) for rank in range(world)]
            assert equal(SequenceBatch.join(parts), alone)


def test_uniform_over_episodes_then_over_starts(store: EpisodeStore) -> None:
    length, steps, size = 4, 300, 64
    sampler, view = SequenceSampler(store, 11, "model"), whole(store, length)
    drawn = [sampler.draw(step, 0, 1, size, length, view) for step in range(steps)]
    episodes, starts = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    counts = np.bincount(episodes, minlength=len(LENGTHS))
    assert abs(chi_square(counts, np.full(len(LENGTHS), steps * size / len(LENGTHS)))) < 4
    for episode, count in enumerate(counts):
        choices = LENGTHS[episode] + 1 - length + 1
        found = np.bincount(starts[episodes == episode], minlength=choices)
        assert len(found) == choices
        if choices > 1:
            assert abs(chi_square(found, np.full(choices, count / choices))) < 4


def test_episode_and_start_are_independent(store: EpisodeStore) -> None:
    # Both come from one random word: were its halves related, the first starts would favour some episodes.
    sampler, view = SequenceSampler(store, 5, 0), EpisodeSet([(i, 4) for i in (0, 1, 2, 3)], 2)
    drawn = [sampler.draw(step, 0, 1, 64, 2, view) for step in range(200)]
    episodes, starts = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    counts = np.bincount(3 * episodes + starts, minlength=12)
    assert abs(chi_square(counts, np.full(12, len(episodes) / 12))) < 4


def test_only_the_prefix_is_drawn(store: EpisodeStore) -> None:
    view = EpisodeSet([(0, 6), (2, 5), (4, 3)], 4)
    assert (entries(view), view.left_out, len(view)) == ([(0, 6), (2, 5)], 1, 2)
    sampler, ends = SequenceSampler(store, 0, 0), {0: 0, 2: 0}
    for step in range(100):
        for episode, start in zip(*sampler.draw(step, 0, 1, 8, 4, view), strict=True):
            ends[int(episode)] = max(ends[int(episode)], int(start) + 4)
        # Row 5 of episode 0 is not its last one: nothing ends there.
        assert not sampler.sample(step, 0, 1, 8, 4, view).is_terminal.any()
    assert ends == {0: 6, 2: 5}


def test_history_repeats_the_first_row(store: EpisodeStore) -> None:
    """A sequence that begins before its episode shows its first row until there."""
    view, seen = EpisodeSet([(0, LENGTHS[0] + 1)], 4), set()
    sampler, mirrored = SequenceSampler(store, 5, 0), SequenceSampler(store, 5, 0, mirror=DeviceMirror(store, "cpu"))
    episode = store[0]
    for step in range(40):
        _, starts = sampler.draw(step, 0, 1, 8, 4, view, 2)
        batch = sampler.sample(step, 0, 1, 8, 4, view, 2)
        assert equal(batch, mirrored.sample(step, 0, 1, 8, 4, view, 2))
        for b, start in enumerate(starts):
            seen.add(int(start))
            for t in range(4):
                row = max(0, int(start) + t)
                assert np.array_equal(batch.image[b, t].numpy(), episode.image_rows[row])
                assert np.array_equal(batch.action[b, t].numpy(), episode.action_rows[row])
                assert batch.reward[b, t] == episode.reward_rows[row]
                assert batch.is_first[b, t] == (int(start) + t <= 0)
    assert seen == set(range(-2, LENGTHS[0] - 2))
    with pytest.raises(SettingError, match="^history"):
        sampler.sample(0, 0, 1, 8, 4, view, 4)


@pytest.mark.parametrize(("fraction", "size"), [(0.25, 8), (0.3, 8), (0.7, 8), (0.0, 8), (1.0, 8), (0.5, 1), (0.9, 7)])
def test_online_fraction(store: EpisodeStore, fraction: float, size: int) -> None:
    sampler, view = SequenceSampler(store, 0, 0, fraction), whole(store, 4, first_online=4)
    seen = set()
    for step in range(100):
        episodes, _ = sampler.draw(step, 0, 1, size, 4, view)
        assert (episodes >= 4).sum() == round(size * fraction)
        seen |= set(episodes.tolist())
    online, offline = (
        {4, 5} if round(size * fraction) else set(),
        {0, 1, 2, 3} if round(size * fraction) < size else set(),
    )
    assert seen == online | offline


@pytest.mark.parametrize(
    ("first", "expected"), [(6, {0, 1, 2, 3, 4, 5}), (0, {0, 1, 2, 3, 4, 5}), (None, set(range(6)))]
)
def test_online_fraction_where_one_side_is_empty(store: EpisodeStore, first: int | None, expected: set[int]) -> None:
    sampler, view = SequenceSampler(store, 0, 0, 0.5), whole(store, 4, first_online=first)
    assert {int(e) for step in range(50) for e in sampler.draw(step, 0, 1, 8, 4, view)[0]} == expected


def test_online_fraction_is_shared_among_ranks(store: EpisodeStore) -> None:
    sampler, view = SequenceSampler(store, 0, 0, 0.25), whole(store, 4, first_online=4)
    assert [int((sampler.draw(0, rank, 4, 8, 4, view)[0] >= 4).sum()) for rank in range(4)] == [2, 2, 2, 2]


def test_beyond_memory_exactly_what_is_drawn_is_asked_for(
    store: EpisodeStore, vector: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    ask = sampler_module.will_need

    def watched(rows: Iterable[np.ndarray]) -> None:
        asked.extend(rows)
        ask(asked)

    monkeypatch.setattr(sampler_module, "will_need", watched)
    sampler, view = SequenceSampler(store, 3, "model"), whole(store, 4)
    before = [sampler.sample(step, 0, 1, 8, 4, view, history=2) for step in range(20)]
    assert not asked
    monkeypatch.setattr(store_module, "_MEMORY", 2 * store.nbytes - 2)
    for step in range(20):
        asked.clear()
        batch = sampler.sample(step, 0, 1, 8, 4, view, history=2)
        assert equal(batch, before[step])
        assert len(asked) == 8 * (3 + bool(vector))
        for b, images in enumerate(asked[:: 3 + bool(vector)]):  # of a sequence that begins early, its first row once
            assert np.array_equal(images, batch.image[b, 4 - len(images) :].numpy())


def test_rows_that_were_asked_for_are_there(tmp_path: Path) -> None:
    """Of a file of which nothing is in memory; a fault that has to read is a major one."""
    store = EpisodeStore(tmp_path)
    store.append(make_episode(0, 100, size=64))
    path = tmp_path / "000000.safetensors"
    view = store[0]
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    will_need([view.image_rows[40:60], view.action_rows[40:60]])
    time.sleep(0.2)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
    view.image_rows[40:60].sum(), view.action_rows[40:60].sum()
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_majflt == before


def test_mirror_gives_the_same_batches(vector: int, tmp_path: Path) -> None:
    growing = EpisodeStore(tmp_path)
    mirror = DeviceMirror(growing, "cpu")
    host, device = SequenceSampler(growing, 0, 0), SequenceSampler(growing, 0, 0, mirror=mirror)

    def check() -> None:
        view = whole(growing, 3)
        for step in range(20):
            one, other = host.sample(step, 0, 1, 16, 3, view), device.sample(step, 0, 1, 16, 3, view)
            assert equal(one, other) and [p is None or p.dtype for p in one] == [p is None or p.dtype for p in other]

    for seed in range(9):
        growing.append(make_episode(seed, 3 + seed % 4, terminated=seed % 3 == 0, vector=vector))
        check()
    growing.restore(growing.manifest()[:4])
    check()
    growing.append(make_episode(40, 20, vector=vector))
    growing.append(make_episode(41, 3, vector=vector))
    check()


def test_residency(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    choose: Any = DeviceMirror.choose
    assert choose(store, "host", "cuda") is None
    assert choose(store, "auto", "cpu") is None
    assert choose(store, "device", "cpu").device.type == "cpu"
    for free, fits in ((4 * store.nbytes, True), (4 * store.nbytes - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert (choose(store, "auto", "cuda") is not None) == fits
        assert choose(store, "auto", "cuda", expected_bytes=10 * store.nbytes) is None
    with pytest.raises(SettingError, match=r"data\.residency"):
        choose(store, "disk", "cpu")


def test_refusals(store: EpisodeStore) -> None:
    with pytest.raises(
        SettingError, match="50, and 6 usable episodes, all shorter.*1 episode of 13 rows.*at most 13 rows"
    ):
        whole(store, 50)
    with pytest.raises(SettingError, match="an episode twice"):
        EpisodeSet([(1, 5), (0, 5), (1, 4)], 2)
    with pytest.raises(SettingError, match="length: found"):
        EpisodeSet([(1, 5)], 0)
    with pytest.raises(SettingError, match="online_fraction"):
        SequenceSampler(store, 0, 0, 1.5)
    sampler = SequenceSampler(store, 0, 0)
    with pytest.raises(SettingError, match="no episode to draw from"):
        sampler.sample(0, 0, 1, 4, 4, EpisodeSet([], 4))
    with pytest.raises(SettingError, match="length"):
        sampler.sample(0, 0, 1, 4, 5, whole(store, 4))
    for name, (step, rank, world, size) in (
        ("step", (-1, 0, 1, 4)),
        ("rank", (0, 1, 1, 4)),
        ("rank", (0, -1, 1, 4)),
        ("batch_size", (0, 0, 1, 0)),
    ):
        with pytest.raises(SettingError, match=f"{name}: found"):
            sampler.sample(step, rank, world, size, 4, whole(store, 4))


def test_a_set_of_many_long_episodes_is_cheap() -> None:
    # Rows are counted, never listed: these would be 10**15.
    view = EpisodeSet([(i, 10**12) for i in range(1000)], 50)
    sampler = SequenceSampler(SimpleNamespace(), 0, 0)  # type: ignore[arg-type]
    _, starts = sampler.draw(0, 0, 1, 64, 50, EpisodeSet([(i, 10**9) for i in range(1000)], 50))
    assert len(view) == 1000 and starts.max() > 10**8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device(store: EpisodeStore) -> None:
    view, mirror = whole(store, 4), DeviceMirror.choose(store, "auto", "cuda")
    host = SequenceSampler(store, 0, 0).sample(3, 0, 1, 8, 4, view)
    device = SequenceSampler(store, 0, 0, mirror=mirror).sample(3, 0, 1, 8, 4, view)
    assert mirror is not None and device.image.is_cuda
    assert equal(host, device.map(lambda part: part.cpu()))
