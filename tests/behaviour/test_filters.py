import numpy as np
import pytest

from moto_pl.behaviour.filters import keep_rows, return_threshold
from moto_pl.replay.episode import Episode

STEPS = 40


def episode(completions: list[int | None] | None = None, success: int | None = None, reward: float = 0.0) -> Episode:
    """An episode of 40 steps whose object i is first completed at step ``completions[i]``."""
    extras = {}
    if completions is not None:
        completed = np.zeros((STEPS, len(completions)), np.bool_)
        for i, step in enumerate(completions):
            if step is not None:
                completed[step:, i] = True
        extras["completed"] = completed
    rewards, reached = np.zeros(STEPS, np.float32), np.zeros(STEPS, np.bool_)
    rewards[-1] = reward
    if success is not None:
        reached[success] = True
    image = np.zeros((STEPS + 1, 8, 8, 3), np.uint8)
    return Episode(image, np.zeros((STEPS, 2), np.float32), rewards, False, True, reached, extras)


@pytest.mark.parametrize(
    ("completions", "last"),
    [
        ([3, 8, 12, 20], 20),
        ([3, 8, None, None], 8),
        ([3, 12, 8, 20], 3),  # the third before the second: only the first was in order
        ([3, None, 8, 20], 3),
        ([8, 3, 12, 20], None),  # the second first
        ([None, 3, 8, 12], None),
        ([None, None, None, None], None),
        ([3, 3, 8, None], 3 + 5),  # at the same step is not before
        ([0, 0, 0, 0], 0),
        ([8, 8, 3, None], None),
        ([5], 5),
        ([], None),
    ],
)
def test_progress(completions: list[int | None], last: int | None) -> None:
    # Step t leads to row t + 1; ten more rows are kept.
    expected = 0 if last is None else len(range(0, last + 1 + 10 + 1))
    assert keep_rows(episode(completions), "progress") == expected
    assert keep_rows(episode(completions), "auto") == expected


def test_progress_ends_with_the_episode() -> None:
    assert keep_rows(episode([3, 29]), "progress") == 41
    assert keep_rows(episode([3, 28]), "progress") == 40
    assert keep_rows(episode([3, 39]), "progress") == 41


def test_progress_counts_first_completions_alone() -> None:
    found = episode([3, 8])
    found.extras["completed"][5:7, 0] = False  # undone and done again after
    assert keep_rows(found, "progress") == 8 + 12


def test_progress_without_objects_ends_after_success() -> None:
    assert keep_rows(episode(success=3), "progress") == 3 + 12
    assert keep_rows(episode(success=35), "progress") == 41
    assert keep_rows(episode(reward=100.0), "progress") == 0


@pytest.mark.parametrize("rule", ["success", "auto"])
def test_success(rule: str) -> None:
    assert keep_rows(episode(success=5), rule) == STEPS + 1
    assert keep_rows(episode(success=STEPS - 1), rule) == STEPS + 1
    assert keep_rows(episode(reward=100.0), rule) == 0


def test_return() -> None:
    assert keep_rows(episode(reward=3.0), "return", 3.0) == STEPS + 1
    assert keep_rows(episode(reward=2.5), "return", 3.0) == 0
    assert keep_rows(episode(reward=-9.0), "return") == STEPS + 1


@pytest.mark.parametrize("rule", ["none", "advantage"])
def test_all_are_kept(rule: str) -> None:
    assert keep_rows(episode([None, 3]), rule) == STEPS + 1


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.5, 6.0), (0.3, 8.0), (0.1, 10.0), (0.01, 10.0)])
def test_return_threshold(share: float, expected: float) -> None:
    returns = [float(r) for r in (4, 1, 9, 2, 10, 3, 5, 8, 7, 6)]
    threshold = return_threshold(returns, share)
    assert threshold == expected
    kept = sum(keep_rows(episode(reward=r), "return", threshold) > 0 for r in returns)
    assert kept == max(1, round(share * 10))


def test_return_threshold_of_nothing() -> None:
    assert return_threshold([], 0.1) == -np.inf
