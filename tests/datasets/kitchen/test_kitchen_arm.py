from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from benchmarks.kitchen_arm import attempt
from moto_pl.datasets.kitchen.arm import KitchenArm, orientation, rotation_vector
from moto_pl.datasets.kitchen.demonstrations import Demonstration, rehearse
from moto_pl.datasets.kitchen.orders import COMBINATIONS, sequence
from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.envs.kitchen import KitchenEnv

pytestmark = pytest.mark.usefixtures("gl")


@pytest.fixture(scope="module")
def env() -> Iterator[KitchenEnv]:
    env = KitchenEnv()
    yield env
    env.close()


def together(in_place: np.ndarray, objects: tuple[str, ...]) -> bool:
    return bool(in_place[:, [KITCHEN_OBJECTS.index(name) for name in objects]].all(axis=1).any())


def enough(attempts: Iterable[bool], of: int, wanted: int) -> bool:
    """Whether so many of all attempts succeed; none is made that cannot change the answer."""
    won = lost = 0
    for success in attempts:
        won, lost = won + success, lost + (not success)
        if won == wanted or lost > of - wanted:
            break
    return won == wanted


@pytest.mark.parametrize(
    ("attempts", "answer", "made"),
    [([True, True, False], True, 2), ([False, True, True], True, 3), ([False, False, True], False, 2)],
)
def test_as_many_attempts_as_it_takes(attempts: list[bool], answer: bool, made: int) -> None:
    left = iter(attempts)
    assert enough(left, of=3, wanted=2) == answer and len(list(left)) == 3 - made


def test_an_orientation_points_and_rolls() -> None:
    level = orientation([0.0, 2.0, 0.0])
    np.testing.assert_allclose(level[:, 2], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(level[:, 1], [1, 0, 0], atol=1e-12)
    for roll in (0.3, -1.2):
        turned = orientation([0.1, 0.9, 0.4], roll)
        np.testing.assert_allclose(turned.T @ turned, np.eye(3), atol=1e-12)
        assert np.linalg.det(turned) == pytest.approx(1.0)
        vector = rotation_vector(turned @ orientation([0.1, 0.9, 0.4]).T)
        np.testing.assert_allclose(vector, roll * turned[:, 2], atol=1e-9)


def test_the_hand_goes_where_it_is_sent(env: KitchenEnv) -> None:
    env.start(0)
    arm = KitchenArm(env, np.random.default_rng(0))
    point, turn = np.array([-0.4, 0.3, 2.2]), orientation([0.0, 1.0, 0.2])
    for action in arm.approach(point, turn, 0.04):
        assert np.abs(action).max() <= 1.0
        env.advance(action)
    reached, turned = arm.tool()
    assert np.linalg.norm(reached - point) < 0.04
    assert np.linalg.norm(rotation_vector(turn @ turned.T)) < 0.4


@pytest.mark.parametrize("name", KITCHEN_OBJECTS)
def test_each_object_is_operated(env: KitchenEnv, name: str) -> None:
    others = [other for other in KITCHEN_OBJECTS if other != name]
    results = [attempt(env, name, seed, 0.05, others[seed] if seed % 2 else None) for seed in range(6)]
    assert sum(success for success, _ in results) >= 5
    assert np.median([steps for _, steps in results]) < 80


def test_four_objects_in_a_row(env: KitchenEnv) -> None:
    def attempts() -> Iterator[bool]:
        for seed in range(5):
            objects = sequence("mixed", seed, seed=3, order="free")
            _, in_place = rehearse(env, objects, seed, 0.05)
            assert not in_place[0].any()
            yield together(in_place, objects)

    assert enough(attempts(), of=5, wanted=3)


def test_only_actions_reach_the_simulator(env: KitchenEnv) -> None:
    """The recorded actions alone, without the arm, give the same episode: the arm wrote nothing."""
    objects = ("microwave", "light switch", "kettle", "top burner")
    action, in_place = rehearse(env, objects, 11, 0.1)
    state = env.state
    assert action.dtype == np.float32 and np.abs(action).max() <= 1.0
    env.start(11)
    replayed = []
    for row in action:
        env.advance(row)
        replayed.append(env.all_in_place())
    np.testing.assert_array_equal(replayed, in_place)
    np.testing.assert_array_equal(env.state, state)


def test_seeds_vary_the_way(env: KitchenEnv) -> None:
    env.episode_steps = 40
    try:
        first, again, other = (rehearse(env, ("microwave",), seed)[0] for seed in (5, 5, 6))
        straying = rehearse(env, ("microwave",), 5, jitter=0.03)[0]
    finally:
        env.episode_steps = 280
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05 and np.abs(first - straying).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", KITCHEN_OBJECTS)
def test_nine_of_ten_attempts_succeed(env: KitchenEnv, name: str) -> None:
    others = [other for other in KITCHEN_OBJECTS if other != name]
    attempts = (
        attempt(env, name, 1000 + index, 0.0, others[index // 2 % 6] if index % 2 else None)[0] for index in range(30)
    )
    assert enough(attempts, of=30, wanted=27)


@pytest.mark.slow
def test_six_of_ten_free_sequences_succeed(env: KitchenEnv) -> None:
    sequences = [sequence("mixed", index, seed=1, order="free") for index in range(20)]
    attempts = (
        together(rehearse(env, objects, 2000 + index, 0.05)[1], objects) for index, objects in enumerate(sequences)
    )
    assert enough(attempts, of=20, wanted=12)


@pytest.mark.slow
def test_each_combination_in_canonical_order_succeeds(env: KitchenEnv) -> None:
    """Nine of ten at the first attempt; and what was completed is not undone on the way to the next."""
    attempts = (
        Demonstration("mixed", index, objects, 0, 0.05, False, "canonical", {}).accepts(
            rehearse(env, objects, 3000 + index, 0.05)[1]
        )
        for index, objects in enumerate(COMBINATIONS)
    )
    assert len(COMBINATIONS) == 24 and enough(attempts, of=24, wanted=22)


@pytest.mark.parametrize("following", ["top burner", "light switch"])
def test_the_microwave_is_not_closed_on_the_way_to_what_lies_ahead(env: KitchenEnv, following: str) -> None:
    for seed in (100, 103):
        assert attempt(env, following, seed, 0.05, "microwave")[0]
        assert env.all_in_place()[KITCHEN_OBJECTS.index("microwave")]
