import gc
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from replay_episodes import make_episode

from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeSet, EpisodeStore, PrefetchLoader, SequenceBatch, SequenceSampler
from moto_pl.schedule import Schedule
from moto_pl.training.loaders import RoundLoader


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert not threads()
    yield
    assert not threads()


def square(step: int) -> int:
    return step * step


def test_batches_come_in_order_and_once_a_step() -> None:
    loader = PrefetchLoader(square, range(3, 30), depth=4)
    assert len(loader) == 27
    assert list(loader) == [square(step) for step in range(3, 30)]
    assert list(loader) == [square(step) for step in range(3, 30)]
    assert list(PrefetchLoader(square, range(0))) == []


def test_nothing_is_made_before_the_first_batch_is_asked_for() -> None:
    made: list[int] = []
    iterator = iter(PrefetchLoader(made.append, range(5)))
    time.sleep(0.05)
    assert not made and not threads()
    next(iterator)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_runs_ahead_by_depth(depth: int) -> None:
    made: list[int] = []
    loader = PrefetchLoader(made.append, range(50), depth)
    for taken, _ in enumerate(loader):
        deadline = time.monotonic() + 5
        while len(made) < min(50, taken + 1 + depth) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(made) == min(50, taken + 1 + depth)
        if taken == 6:
            time.sleep(0.05)
            assert len(made) == taken + 1 + depth
            break
    del loader


def test_one_thread_of_its_own_makes_all_batches() -> None:
    idents = set(PrefetchLoader(lambda step: threading.get_ident(), range(20)))
    assert len(idents) == 1 and threading.get_ident() not in idents


def test_an_exception_arrives_in_its_place() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise KeyError("step three")
        return step

    taken = []
    with pytest.raises(KeyError, match="step three"):
        for batch in PrefetchLoader(make, range(10)):
            taken.append(batch)
    assert taken == [0, 1, 2]


def test_the_thread_ends_with_an_early_break() -> None:
    loader = PrefetchLoader(square, range(100))
    for batch in loader:
        if batch == 4:
            break
    assert not threads()


def test_the_thread_ends_with_an_exception_of_the_consumer() -> None:
    with pytest.raises(ZeroDivisionError):
        for batch in PrefetchLoader(square, range(100)):
            1 / batch


def test_the_thread_ends_when_the_iterator_is_dropped() -> None:
    iterator = iter(PrefetchLoader(square, range(100)))
    next(iterator)
    assert threads()
    del iterator
    assert not threads()


def test_the_thread_ends_in_garbage_that_refers_to_itself() -> None:
    iterator = iter(PrefetchLoader(square, range(100)))
    next(iterator)
    ring = [iterator]
    ring.append(ring)  # type: ignore[arg-type]
    del iterator, ring
    gc.collect()
    assert not threads()


def test_close() -> None:
    loader = PrefetchLoader(square, range(100))
    loader.close()
    iterator = iter(loader)
    next(iterator)
    loader.close()
    loader.close()
    assert not threads()
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)
    assert next(iter(loader)) == 0


def test_wait_is_measured() -> None:
    def slow(step: int) -> int:
        time.sleep(0.02)
        return step

    waiting = PrefetchLoader(slow, range(5))
    list(waiting)
    assert 0.05 < waiting.wait_seconds
    ready = PrefetchLoader(slow, range(5))
    iterator = iter(ready)
    next(iterator)
    first = ready.wait_seconds
    time.sleep(0.1)
    next(iterator)
    assert ready.wait_seconds - first < 0.015


def test_depth_is_checked() -> None:
    with pytest.raises(SettingError, match=r"data\.prefetch: found 0"):
        PrefetchLoader(square, range(3), depth=0)


def test_prefetch_changes_no_batch(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = EpisodeStore(tmp_path_factory.mktemp("replay"))
    for seed in range(4):
        store.append(make_episode(seed, 9))
    sampler, view = SequenceSampler(store, 0, "model"), EpisodeSet([(i, 10) for i in range(4)], 5)

    def make(step: int) -> torch.Tensor:
        return sampler.sample(step, 0, 1, 8, 5, view).image

    alone = [make(step) for step in range(20)]
    for depth in (1, 2, 7):
        assert all(map(torch.equal, PrefetchLoader(make, range(20), depth), alone))


def round_loader(device: str, batch: SequenceBatch) -> RoundLoader:
    trainer: Any = SimpleNamespace(
        global_step=0, accumulate_grad_batches=1, strategy=SimpleNamespace(root_device=torch.device(device))
    )
    return RoundLoader(lambda index: {"model": batch}, trainer, Schedule(1, 0, 1, 1), 1)


def test_batches_for_a_cuda_device_are_pinned_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = SequenceBatch(*(torch.full((1,), float(i)) for i in range(5)))
    (made,) = round_loader("cpu", batch)
    assert made["model"].image is batch.image and not pinned
    (made,) = round_loader("cuda", batch)
    assert made["model"].vector is None and all(part is of for part, of in zip(pinned, batch[:5], strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pins() -> None:
    there = torch.ones(1, device="cuda")
    (made,) = round_loader("cuda", SequenceBatch(*(torch.zeros(3) for _ in range(4)), there))
    assert made["model"].image.is_pinned() and made["model"].is_first.is_pinned()
    assert made["model"].is_terminal is there
