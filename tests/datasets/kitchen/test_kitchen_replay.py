from pathlib import Path

import numpy as np
import pytest

from moto_pl.datasets.builders import build, ensure
from moto_pl.datasets.kitchen import replay
from moto_pl.datasets.kitchen.replay import build_replay
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("gl")
SMALL = {"image_size": 16, "workers": 1}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def in_this_process(monkeypatch):
    """Replays without processes, which take seconds to start."""
    monkeypatch.setattr(
        replay, "in_processes", lambda function, jobs, *_: ((i, function(job)) for i, job in enumerate(jobs))
    )


def episode(path: Path, seed: int = 0, steps: int = 6, size: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    action = rng.uniform(-0.5, 0.5, (steps + 1, size)).astype(np.float32)
    action[0] = 0
    rows = np.arange(steps + 1)
    np.savez(
        path,
        image=np.zeros((steps + 1, 8, 8, 3), np.uint8),
        action=action,
        reward=np.zeros(steps + 1, np.float32),
        is_first=rows == 0,
        is_last=rows == steps,
        is_terminal=np.zeros(steps + 1, bool),
    )
    return path


def test_every_attempt_is_kept_with_what_it_reached(tmp_path):
    for seed in range(2):
        episode(tmp_path / "in" / f"{seed}.npz", seed)
    built = build("kitchen/replay", source=tmp_path / "in", episodes=3, noise=0.1, image_size=16, workers=2)
    reader = open_dataset("kitchen/replay")
    assert reader.path == built.path and reader.check(16, 9) == [6, 6, 6]
    assert [e.info["replayed"] for e in reader] == ["0.npz", "1.npz", "0.npz"]
    given = np.load(tmp_path / "in" / "0.npz")["action"][1:]
    noise = reader[0].action - given
    assert 0.05 < noise.std() < 0.2 and not np.array_equal(reader[0].action, reader[2].action)
    assert reader[0].extras["completed"].shape == (6, 4) and reader[0].extras["in_place"].shape == (6, 7)
    assert reader[0].image[0].std() > 10
    assert (reader.own["noise"], reader.own["retries"], reader.own["env_id"]) == (0.1, 0, "moto_pl/Kitchen-mixed-v0")


def test_the_seed_decides_whatever_the_number_of_workers(tmp_path, in_this_process):
    source = episode(tmp_path / "0.npz")
    first = list(open_dataset(build_replay(source, 2, output="moto_pl/a-v0", **SMALL).path))
    again = list(open_dataset(build_replay(source, 2, output="moto_pl/b-v0", image_size=16, workers=2).path))
    other = list(open_dataset(build_replay(source, 2, seed=1, output="moto_pl/c-v0", **SMALL).path))
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left.image, right.image)
        np.testing.assert_array_equal(left.action, right.action)
    assert not np.array_equal(first[0].action, other[0].action)


def test_without_noise_the_actions_are_the_given_ones(tmp_path, in_this_process):
    source = episode(tmp_path / "0.npz")
    made = open_dataset(build_replay(source, 1, noise=0.0, **SMALL).path)[0]
    np.testing.assert_array_equal(made.action, np.load(source)["action"][1:])


def test_a_dataset_replays_as_well(tmp_path, in_this_process):
    build_replay(episode(tmp_path / "0.npz"), 1, output="moto_pl/first-v0", **SMALL)
    made = open_dataset(build_replay("moto_pl/first-v0", 1, **SMALL).path)[0]
    assert made.info["replayed"] == "moto_pl/first-v0 0"


def test_attempts_that_reach_too_little_are_dropped(tmp_path, in_this_process, root):
    """Waving the arm brings nothing into place."""
    with pytest.raises(SettingError, match="least: found 0 of"):
        build_replay(episode(tmp_path / "0.npz", steps=2), 1, least=1, **SMALL)
    assert not any(root.rglob("*")) if root.exists() else True


def test_what_comes_after_a_blow_up_is_not_counted(tmp_path, in_this_process, monkeypatch):
    """The episode ends there, and the simulator has gone back to its zero state."""
    begin = KitchenEnv.start

    def fast(env, seed=None):
        begin(env, seed)
        env.data.qvel[:] = 1e9

    monkeypatch.setattr(KitchenEnv, "start", fast)
    monkeypatch.setattr(KitchenEnv, "objects_in_place", lambda env: np.ones(len(env.objects), bool))
    with pytest.raises(SettingError, match="least: found 0 of"):
        build_replay(episode(tmp_path / "0.npz", steps=3), 1, least=1, **SMALL)


def test_one_that_is_there_was_built_with_its_task_source_and_defaults(tmp_path, in_this_process):
    source = episode(tmp_path / "0.npz")
    path = ensure("kitchen/replay", source=source, task="partial", episodes=1, **SMALL)
    defaults = {"task": "partial", "source": source, "camera": "paper", "joint_noise": 0.01, "state": False}
    assert ensure("kitchen/replay", **defaults, observe=["image"]) == path
    for name, value in {"task": "mixed", "joint_noise": 0.0, "camera": "left_cap"}.items():
        with pytest.raises(SettingError, match=f"{name}: found {defaults[name]} in moto_pl/kitchen/replay-v0"):
            ensure("kitchen/replay", **{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": None}, "source: found nothing"),
        ({"episodes": 0}, "episodes"),
        ({"noise": 2.0}, "noise"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"task": "x"}, "task"),
        ({"least": 5}, "least"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        build_replay(**{"source": episode(tmp_path / "0.npz"), **SMALL, **settings})


def test_actions_of_another_robot(tmp_path):
    with pytest.raises(SettingError, match="with 4 actions. The kitchen has 9"):
        build_replay(episode(tmp_path / "0.npz", size=4), **SMALL)
