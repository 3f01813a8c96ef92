from collections import Counter

import pytest

from moto_pl.datasets.kitchen.orders import COMBINATIONS, sequence
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_ORDER, KITCHEN_TASKS
from moto_pl.errors import SettingError

PAPER = 563


def is_canonical(objects: tuple[str, ...]) -> bool:
    places = [KITCHEN_ORDER.index(name) for name in objects]
    return places == sorted(places)


def test_the_combinations_are_as_in_the_recorded_demonstrations() -> None:
    assert sorted(KITCHEN_ORDER) == sorted(KITCHEN_OBJECTS)
    assert KITCHEN_ORDER.index("top burner") < KITCHEN_ORDER.index("bottom burner")
    assert len(set(COMBINATIONS)) == 24
    assert all(len(set(four)) == 4 and is_canonical(four) for four in COMBINATIONS)
    assert sum(four[0] == "microwave" for four in COMBINATIONS) == 15
    assert sum(four[:2] == ("microwave", "kettle") for four in COMBINATIONS) == 7
    assert KITCHEN_TASKS["mixed"] in COMBINATIONS
    assert not any(set(four) == set(KITCHEN_TASKS["partial"]) for four in COMBINATIONS)
    assert {len([four for four in COMBINATIONS if name in four]) for name in KITCHEN_ORDER[2:]} == {13}
    assert all(is_canonical(objects) for objects in KITCHEN_TASKS.values())


def test_one_set_for_both_tasks_at_the_papers_scale() -> None:
    mixed = [sequence("mixed", index) for index in range(PAPER)]
    assert mixed == [sequence("partial", index) for index in range(PAPER)]
    counts = Counter(mixed)
    assert set(counts) == set(COMBINATIONS) and set(counts.values()) == {23, 24}
    assert counts[KITCHEN_TASKS["mixed"]] in (23, 24)
    assert not any(set(four) == set(KITCHEN_TASKS["partial"]) for four in mixed)
    # More episodes begin with the same, each 24 hold each combination, and the seed decides in which turn.
    assert all(set(mixed[first : first + 24]) == set(COMBINATIONS) for first in range(0, 23 * 24, 24))
    assert mixed[:24] != mixed[24:48]
    assert mixed[:24] != [sequence("mixed", index, seed=1) for index in range(24)]


@pytest.mark.parametrize("kind", ["mixed", "partial"])
def test_a_share_of_the_tasks_own(kind: str) -> None:
    own = KITCHEN_TASKS[kind]
    for order in ("canonical", "free"):
        half = [sequence(kind, index, task_share=0.5, order=order) for index in range(48)]  # type: ignore[arg-type]
        assert [four == own for four in half] == [True, False] * 24
        assert not any(set(four) == set(own) for four in half[1::2])
        assert all(sequence(kind, index, task_share=1.0, order=order) == own for index in range(5))  # type: ignore[arg-type]
        none = [sequence(kind, index, task_share=0.0, order=order) for index in range(48)]  # type: ignore[arg-type]
        assert not any(set(four) == set(own) for four in none)
    canonical = [sequence(kind, index, task_share=0.25) for index in range(48)]
    assert all(is_canonical(four) for four in canonical)


def test_free_sequences_of_mixed() -> None:
    own = KITCHEN_TASKS["mixed"]
    sequences = [sequence("mixed", index, order="free") for index in range(200)]
    assert sum(four == own for four in sequences) == 20
    assert sum(set(four) == set(own) for four in sequences) == 20
    assert all(len(set(four)) == 4 and set(four) <= set(KITCHEN_OBJECTS) for four in sequences)
    assert len({frozenset(four) for four in sequences}) > 30
    assert {four[0] for four in sequences} == set(KITCHEN_OBJECTS)
    assert sequences == [sequence("mixed", index, order="free") for index in range(200)]
    assert sequences != [sequence("mixed", index, seed=1, order="free") for index in range(200)]


@pytest.mark.parametrize("seed", range(3))
def test_free_sequences_of_partial_hold_the_parts_and_never_the_whole(seed: int) -> None:
    own = set(KITCHEN_TASKS["partial"])
    sequences = [set(sequence("partial", index, seed, order="free")) for index in range(100)]
    assert not any(four == own for four in sequences)
    assert set.union(*sequences) == set(KITCHEN_OBJECTS)
    triples = [frozenset(four & own) for four in sequences if len(four & own) == 3]
    assert len(set(triples)) == 4, "each of the four triples appears"
    assert len(triples) >= 50


def test_another_order() -> None:
    with pytest.raises(SettingError, match="order.*'random'.*canonical, free"):
        sequence("mixed", 0, order="random")  # type: ignore[arg-type]
