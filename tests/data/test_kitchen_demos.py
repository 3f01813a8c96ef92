from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moto_pl.data.builders import build, ensure
from moto_pl.data.kitchen_demos import Demonstration, record_demonstration, sequence
from moto_pl.data.minari_io import open_dataset
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("gl")
# Too short for four objects, long enough for the first.
SHORT: dict[str, Any] = {"steps": 60, "image_size": 16, "keep_failures": True}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_mixed_sequences() -> None:
    own = KITCHEN_TASKS["mixed"]
    sequences = [sequence("mixed", index) for index in range(200)]
    assert sum(four == own for four in sequences) == 20
    assert sum(set(four) == set(own) for four in sequences) == 20
    assert all(len(set(four)) == 4 and set(four) <= set(KITCHEN_OBJECTS) for four in sequences)
    assert len({frozenset(four) for four in sequences}) > 30
    assert {name for four in sequences for name in four} == set(KITCHEN_OBJECTS)
    assert {four[0] for four in sequences} == set(KITCHEN_OBJECTS)
    assert sequences == [sequence("mixed", index) for index in range(200)]
    assert sequences != [sequence("mixed", index, seed=1) for index in range(200)]
    assert all(sequence("mixed", index, task_share=1.0) == own for index in range(5))
    assert not any(set(sequence("mixed", index, task_share=0.0)) == set(own) for index in range(200))


@pytest.mark.parametrize("seed", range(3))
def test_partial_sequences_hold_the_parts_and_never_the_whole(seed: int) -> None:
    own = set(KITCHEN_TASKS["partial"])
    sequences = [set(sequence("partial", index, seed)) for index in range(100)]
    assert not any(four == own for four in sequences)
    assert set.union(*sequences) == set(KITCHEN_OBJECTS)
    triples = [frozenset(four & own) for four in sequences if len(four & own) == 3]
    assert len(set(triples)) == 4, "each of the four triples appears"
    assert len(triples) >= 50


@pytest.mark.slow
def test_the_whole_of_partial_when_asked_for(root: Path) -> None:
    assert all(sequence("partial", index, task_share=1.0) == KITCHEN_TASKS["partial"] for index in range(5))
    build("kitchen/partial", episodes=1, workers=1, task_share=1.0, image_size=16)
    episode = open_dataset("kitchen/partial")[0]
    assert episode.succeeded and episode.reward.max() == 4 and episode.extras["completed"].any(0).all()


def test_the_built_dataset(root: Path) -> None:
    built = build("kitchen/mixed", episodes=3, workers=2, seed=4, **SHORT)
    reader = open_dataset("kitchen/mixed")
    assert reader.path == built.path and reader.check(16, 9) == [60] * 3
    own = reader.own
    assert own["env_kwargs"]["objects"] == list(KITCHEN_TASKS["mixed"])
    assert (own["env_id"], own["seed"], own["episodes"]) == ("moto_pl/Kitchen-mixed-v0", 4, 3)
    columns = [KITCHEN_OBJECTS.index(name) for name in KITCHEN_TASKS["mixed"]]
    env = KitchenEnv(image_size=16, episode_steps=60)
    for index, episode in enumerate(reader):
        assert episode.info["sequence"] == ", ".join(sequence("mixed", index, 4))
        completed, in_place = episode.extras["completed"], episode.extras["in_place"]
        np.testing.assert_array_equal(completed, in_place[:, columns])
        np.testing.assert_array_equal(episode.reward, completed.sum(axis=1))
        np.testing.assert_array_equal(episode.success, completed.all(axis=1))
        observation, _ = env.reset(seed=int(episode.info["seed"]))
        np.testing.assert_array_equal(observation["image"], episode.image[0])
        for step, action in enumerate(episode.action):
            *_, info = env.step(action)
            np.testing.assert_array_equal(info["in_place"], in_place[step])
    env.close()
    assert any(episode.extras["in_place"].any() for episode in reader)
    # For any number of workers the same.
    again = open_dataset(build("kitchen/mixed", episodes=3, workers=1, seed=4, output=root / "again", **SHORT).path)
    for left, right in zip(reader, again, strict=True):
        assert left.info == right.info
        for name in ("image", "action", "reward"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert ensure("kitchen/mixed", episodes=3, seed=4, keep_failures=True) == reader.path
    with pytest.raises(SettingError, match="noise"):
        ensure("kitchen/mixed", noise=0.2)


def plan(kind: str, objects: tuple[str, ...], noise: float = 0.0, keep: bool = False, **kwargs: Any) -> Demonstration:
    env_kwargs = {"objects": list(KITCHEN_TASKS[kind]), "image_size": 8, **kwargs}
    return Demonstration(kind, 0, objects, 0, noise, keep, env_kwargs)


def test_a_success_is_recorded_and_a_failure_dropped_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    episode = record_demonstration(plan("mixed", ("slide cabinet", "light switch"), episode_steps=90))
    assert episode.info["operated"] == 2 and episode.info["retries"] == 0
    assert episode.reward[-1] == 2 and not episode.succeeded
    monkeypatch.setattr("moto_pl.data.kitchen_demos.MAX_ATTEMPTS", 2)
    hopeless = {"objects": ("kettle", "microwave"), "episode_steps": 20}
    with pytest.raises(SettingError, match="not once in 2 attempts"):
        record_demonstration(plan("mixed", **hopeless))  # type: ignore[arg-type]
    kept = record_demonstration(plan("mixed", **hopeless, keep=True))  # type: ignore[arg-type]
    assert kept.info["operated"] == 0 and kept.reward.sum() == 0


def test_partial_never_keeps_its_whole_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.data.kitchen_demos.MAX_ATTEMPTS", 1)
    # In another order than the task's own, which is recorded where it is asked for (task_share).
    whole = KITCHEN_TASKS["partial"][1:] + KITCHEN_TASKS["partial"][:1]
    assert record_demonstration(plan("mixed", whole)).info["operated"] == 4, "the arm can do it"
    with pytest.raises(SettingError, match="not once"):
        record_demonstration(plan("partial", whole, keep=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"episodes": 0}, "episodes"),
        ({"workers": 0}, "workers"),
        ({"seed": -1}, "seed"),
        ({"noise": 2.0}, "noise"),
        ({"task_share": -0.1}, "task_share"),
        ({"objects": ["kettle"]}, "objects"),
        ({"steps": 0}, "episode_steps"),
        ({"flavour": "sweet"}, "flavour"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(root: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build("kitchen/partial", **options)
    assert not list(root.iterdir())
