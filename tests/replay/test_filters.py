import numpy as np
import pytest

from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS
from moto_pl.replay.episode import Episode
from moto_pl.replay.filters import keep_rows, return_threshold

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


def test_what_was_undone_for_good_was_not_done() -> None:
    found = episode([3, 8, 12, None])
    found.extras["completed"][30:, 1] = False
    assert keep_rows(found, "progress") == 3 + 12, "the third comes before the second, which is not there"
    found.extras["completed"][35:, 0] = False
    assert keep_rows(found, "progress") == 0


MIXED = KITCHEN_TASKS["mixed"]  # microwave, kettle, light switch, slide cabinet


def kitchen_episode(**completions: int | tuple[int, int]) -> Episode:
    """Objects by the step at which they come into place, or the steps of coming into place and being moved away."""
    found = episode([])
    in_place = np.zeros((STEPS, 7), np.bool_)
    for name, steps in completions.items():
        first, until = steps if isinstance(steps, tuple) else (steps, STEPS)
        in_place[first:until, KITCHEN_OBJECTS.index(name.replace("_", " "))] = True
    found.extras.update(in_place=in_place, completed=in_place[:, [KITCHEN_OBJECTS.index(name) for name in MIXED]])
    return found


@pytest.mark.parametrize(
    ("completions", "last"),
    [
        ({"microwave": 3, "kettle": 8, "light_switch": 12, "slide_cabinet": 20}, 20),
        ({"microwave": 3, "kettle": 8, "top_burner": 12, "light_switch": 20}, 8),  # a foreign object ends the prefix
        ({"top_burner": 3, "microwave": 8, "kettle": 12}, None),  # or leaves none
        ({"microwave": 3, "top_burner": (5, 30), "kettle": 12}, 12),  # unless it is not in place at the end
        ({"microwave": 3, "top_burner": (5, STEPS - 1), "kettle": 12}, 12),
        ({"microwave": 3, "kettle": (8, 30), "light_switch": 12}, 3),  # the task's own as well
        ({"microwave": (3, 30), "kettle": 8}, None),
        ({"microwave": 3, "kettle": (8, STEPS - 1)}, 3),
        ({"kettle": 3, "microwave": 8}, None),
        ({"microwave": 3, "slide_cabinet": 8}, 3),
        ({"microwave": 3, "kettle": 3}, 3),  # at one step, in the task's order
        ({"microwave": 8, "kettle": 8, "bottom_burner": 8, "light_switch": 12}, 8),  # and the task's before the others
        ({"microwave": 0, "kettle": 8}, 8),  # in place from the start: completed first
        ({"hinge_cabinet": 0, "microwave": 8}, None),
        ({"hinge_cabinet": (0, 5), "microwave": 8}, 8),
        ({"hinge_cabinet": 3}, None),
        ({}, None),
    ],
)
def test_progress_looks_at_every_object(completions: dict[str, int | tuple[int, int]], last: int | None) -> None:
    found = kitchen_episode(**completions)
    for rule in ("progress", "auto"):
        assert keep_rows(found, rule, objects=MIXED) == (0 if last is None else last + 12)  # type: ignore[arg-type]


def test_first_completion_counts_where_an_object_flickers() -> None:
    found = kitchen_episode(microwave=3, kettle=8, top_burner=12, light_switch=20)
    found.extras["in_place"][5:15, 0] = False
    assert keep_rows(found, "progress", objects=MIXED) == 8 + 12


def test_the_order_is_the_environments_and_not_the_datas() -> None:
    """One set serves both tasks: the bottom burner is foreign to mixed, and the third of partial."""
    found = kitchen_episode(microwave=3, kettle=8, bottom_burner=12, light_switch=20)
    assert keep_rows(found, "progress", objects=MIXED) == 8 + 12
    assert keep_rows(found, "progress", objects=KITCHEN_TASKS["partial"]) == 20 + 12
    assert keep_rows(found, "progress", objects=("kettle", "microwave")) == 0


def test_where_only_the_tasks_objects_are_recorded_the_rule_goes_by_these() -> None:
    found = kitchen_episode(microwave=3, kettle=8, top_burner=12, light_switch=20)
    del found.extras["in_place"]
    assert keep_rows(found, "progress", objects=MIXED) == 20 + 12
    # An environment of other objects may mean something else by in_place.
    other = kitchen_episode(top_burner=1, microwave=3)
    assert keep_rows(other, "progress", objects=("drawer", "door", "lamp", "box")) == 3 + 12
    other.extras["in_place"] = np.ones(STEPS, np.bool_)
    assert keep_rows(other, "progress", objects=MIXED) == 3 + 12


def test_progress_without_objects_ends_after_success() -> None:
    assert keep_rows(episode(success=3), "progress") == 3 + 12
    assert keep_rows(episode(success=35), "progress") == 41
    assert not episode(success=3).success[-1], "first success counts, lost again or not"
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


@pytest.mark.parametrize(("least", "kept"), [(1, 1), (4, 4), (10, 10), (11, 10)])
def test_so_many_are_kept_at_least(least: int, kept: int) -> None:
    returns = [float(r) for r in (4, 1, 9, 2, 10, 3, 5, 8, 7, 6)]
    threshold = return_threshold(returns, 0.1, least)
    assert sum(keep_rows(episode(reward=r), "return", threshold) > 0 for r in returns) == kept


def test_return_threshold_of_nothing() -> None:
    assert return_threshold([], 0.1) == -np.inf


def test_what_was_held_on_a_detour_is_not_cloned() -> None:
    plain = episode(success=5)
    for detour, rows in ((np.zeros(STEPS, bool), STEPS + 1), (np.arange(STEPS) == 30, 0)):
        explored = Episode(
            plain.image, plain.action, plain.reward, False, True, plain.success, {**plain.extras, "detour": detour}
        )
        assert keep_rows(explored, "success") == rows
        assert keep_rows(explored, "none") == STEPS + 1
