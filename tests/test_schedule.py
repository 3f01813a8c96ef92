from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moto_pl.errors import SettingError
from moto_pl.schedule import Schedule


def make(offline: int, online: int, round_steps: int, updates: int, model: int, envs: int = 1) -> Schedule:
    return Schedule(offline, online, round_steps, updates, envs, "model_first" if model else "joint", model)


schedules = (
    st.tuples(
        *(st.integers(0, 120), st.integers(0, 120), st.integers(1, 50), st.integers(1, 50)),
        st.one_of(st.just(0), st.integers(1, 120)),
        st.integers(1, 4),
    )
    .filter(lambda numbers: numbers[0] + numbers[1] + numbers[4] > 0)
    .map(lambda numbers: make(*numbers))
)


def rounds_by_walking(schedule: Schedule) -> list[list[int]]:
    """The steps of each round, one step at a time."""
    rounds: list[list[int]] = []
    left = 0
    for step in range(schedule.total_steps):
        online = step >= schedule.model_steps + schedule.offline_steps
        if left == 0 or step in (schedule.model_steps, schedule.model_steps + schedule.offline_steps):
            rounds.append([])
            episode, envs = schedule.updates_per_episode, schedule.episodes_per_round
            left = episode * envs if online else schedule.offline_round_steps
        rounds[-1].append(step)
        left -= 1
    return rounds


def test_by_hand() -> None:
    schedule = Schedule(offline_steps=25, online_steps=7, offline_round_steps=10, updates_per_episode=3)
    assert (schedule.total_steps, schedule.offline_rounds, schedule.online_rounds, schedule.rounds) == (32, 3, 3, 6)
    assert [schedule.start_of(i) for i in range(7)] == [0, 10, 20, 25, 28, 31, 32]
    assert [schedule.steps_in(i) for i in range(6)] == [10, 10, 5, 3, 3, 1]
    assert [schedule.round_of(step) for step in (0, 9, 10, 24, 25, 27, 28, 31, 32, 99)] == [
        0,
        0,
        1,
        2,
        3,
        3,
        4,
        5,
        6,
        6,
    ]
    phases = [schedule.phase(step) for step in (0, 1, 24, 25, 26, 31, 32)]
    assert phases == ["untrained", "offline", "offline", "pretrained", "online", "online", "final"]
    assert [schedule.evaluation_due(i, 0) for i in range(6)] == [False, False, True, False, False, True]
    assert [schedule.evaluation_due(i, 14) for i in range(6)] == [False, True, True, True, False, True]


def test_model_first_by_hand() -> None:
    schedule = Schedule(6, 5, 4, 3, 1, "model_first", 9)
    assert (schedule.total_steps, schedule.pretraining_steps) == (20, 15)
    assert (schedule.model_rounds, schedule.offline_rounds, schedule.rounds) == (3, 5, 7)
    assert [schedule.start_of(i) for i in range(8)] == [0, 4, 8, 9, 13, 15, 18, 20]
    trained = [schedule.trains(step) for step in range(20)]
    assert trained == ["model"] * 9 + ["behaviour"] * 6 + ["all"] * 5
    assert [schedule.phase(step) for step in (0, 9, 14, 15, 16, 20)] == [
        *("untrained", "offline", "offline", "pretrained", "online", "final")
    ]
    assert [schedule.describe_step(step) for step in (8, 9, 15)] == [
        *("offline: world model", "offline: actor and critics", "online")
    ]
    assert Schedule(6, 5, 4, 3).describe_step(2) == "offline"
    assert [i for i in range(7) if schedule.evaluation_due(i, 0)] == [4, 6]


@given(schedules)
def test_components_train_in_whole_rounds_and_are_counted(schedule: Schedule) -> None:
    counted = {"model": 0, "behaviour": 0}
    for step in range(schedule.total_steps):
        for component in ("model", "behaviour"):
            assert schedule.steps_of(component, step) == counted[component]
            counted[component] += schedule.trains(step) in ("all", component)
    for component in ("model", "behaviour"):
        assert schedule.steps_of(component, schedule.total_steps) == counted[component]
    if schedule.pretrain == "joint":
        assert counted["model"] == counted["behaviour"] == schedule.total_steps
    else:
        assert counted["model"] == schedule.model_steps + schedule.online_steps
        assert counted["behaviour"] == schedule.offline_steps + schedule.online_steps
    for i in range(schedule.rounds):
        assert len({schedule.trains(step) for step in range(schedule.start_of(i), schedule.start_of(i + 1))}) == 1


@given(schedules)
def test_rounds_partition_the_steps(schedule: Schedule) -> None:
    walked = rounds_by_walking(schedule)
    assert schedule.rounds == len(walked)
    assert [schedule.steps_in(i) for i in range(schedule.rounds)] == [len(steps) for steps in walked]
    for i, steps in enumerate(walked):
        assert schedule.start_of(i) == steps[0]
        assert {schedule.round_of(step) for step in steps} == {i}
        assert {i >= schedule.offline_rounds} == {step >= schedule.pretraining_steps for step in steps}
    assert schedule.start_of(schedule.rounds) == schedule.total_steps
    assert schedule.round_of(schedule.total_steps) == schedule.rounds


@given(schedules)
def test_episodes_are_counted_as_rounds_collect_them(schedule: Schedule) -> None:
    collected = 0
    for i, steps in enumerate(rounds_by_walking(schedule)):
        collected += schedule.episodes_per_round * (i >= schedule.offline_rounds)
        assert {schedule.episodes_at(step) for step in steps} == {collected}
    assert schedule.episodes_at(schedule.total_steps) == collected == schedule.online_episodes


@given(schedules)
def test_phases_come_in_order(schedule: Schedule) -> None:
    order = ["untrained", "offline", "pretrained", "online", "final"]
    phases = [order.index(schedule.phase(step)) for step in range(schedule.total_steps + 1)]
    assert phases == sorted(phases)
    assert phases.count(0) == phases.count(4) == 1
    both = schedule.pretraining_steps > 0 and schedule.online_steps > 0
    assert phases.count(2) == both
    assert phases.count(1) == max(0, schedule.pretraining_steps - 1)


@given(schedules, st.integers(0, 60))
def test_evaluations(schedule: Schedule, every: int) -> None:
    due = [schedule.evaluation_due(i, every) for i in range(schedule.rounds)]
    ends = {schedule.offline_rounds - 1, schedule.rounds - 1} - {-1}
    assert all(due[i] for i in ends)
    for i, evaluated in enumerate(due):
        passed = range(schedule.start_of(i) + 1, schedule.start_of(i + 1) + 1)
        assert evaluated == (i in ends or (every > 0 and any(step % every == 0 for step in passed)))


@pytest.mark.parametrize(
    ("numbers", "setting"),
    [
        ((-1, 5, 1, 1), "data.offline_steps"),
        ((5, -1, 1, 1), "data.online_steps"),
        ((5, 5, 0, 1), "data.offline_round_steps"),
        ((5, 5, 1, 0), "data.updates_per_episode"),
        ((0, 0, 1, 1), "data.offline_steps"),
        ((5, 5, 1, 1, 1, "joint", 3), "data.model_steps"),
        ((5, 5, 1, 1, 1, "model_first", 0), "data.model_steps"),
        ((5, 5, 1, 1, 1, "model_first", -1), "data.model_steps"),
    ],
)
def test_bad_numbers_are_refused(numbers: tuple[Any, ...], setting: str) -> None:
    with pytest.raises(SettingError) as error:
        Schedule(*numbers)
    assert error.value.setting == setting
