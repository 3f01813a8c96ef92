import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from moto_pl.datasets import builders
from moto_pl.datasets.builders import build, build_reach, ensure
from moto_pl.datasets.metaworld import build_metaworld
from moto_pl.datasets.minari_io import list_datasets, open_dataset
from moto_pl.datasets.recording import MAX_ATTEMPTS, Built, Plan, demonstration_seed, record, run_scripted
from moto_pl.envs import make
from moto_pl.errors import SettingError
from moto_pl.evaluations import EVALUATION_SEEDS

# Short and noisy enough that some episodes fail.
HARD: dict[str, Any] = {"episodes": 6, "steps": 8, "noise": 0.5, "image_size": 32}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def same_datasets(left: Path, right: Path) -> bool:
    pairs = list(zip(open_dataset(left), open_dataset(right), strict=True))
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in pairs
        for name in ("image", "action", "reward", "success")
    ) and all(a.info == b.info for a, b in pairs)


def test_reach_dataset() -> None:
    built = build("reach", episodes=4, image_size=32, seed=3)
    assert list_datasets() == ["moto_pl/reach-v0"]
    reader = open_dataset("reach")
    assert reader.path == built.path
    assert reader.check(32, 2) == [30] * 4
    own = reader.own
    assert (own["seed"], own["episodes"], own["retries"], own["noise"]) == (3, 4, 0, 0.0)
    assert own["env_id"] == "moto_pl/Reach-v0"
    unasked = {"goal": "random", "reward": "sparse", "hand_radius": 0.1, "observe": ["image"]}
    assert own["env_kwargs"] == {"image_size": 32, "episode_steps": 30, **unasked}
    assert own["versions"].keys() >= {"gymnasium", "moto_pl"}
    for episode in reader:
        assert episode.succeeded and episode.truncated and not episode.terminated
        np.testing.assert_array_equal(episode.reward > 0, episode.success)
        assert 0 <= int(episode.info["seed"]) < EVALUATION_SEEDS


def test_recorded_episodes_replay() -> None:
    """Each episode's actions, played again from its seed, give its frames and rewards."""
    reader = open_dataset(build("reach", **HARD).path)
    env = make("moto_pl/Reach-v0", image_size=32, episode_steps=8)
    for episode in reader:
        observation, _ = env.reset(seed=int(episode.info["seed"]))
        frames, rewards = [observation["image"]], []
        for action in episode.action:
            observation, reward, *_ = env.step(action)
            frames.append(observation["image"])
            rewards.append(reward)
        np.testing.assert_array_equal(np.stack(frames), episode.image)
        np.testing.assert_array_equal(rewards, episode.reward)


def test_retries_are_counted_and_failures_discarded() -> None:
    recording = build("reach", **HARD, seed=1).recording
    env = make("moto_pl/Reach-v0", image_size=32, episode_steps=8)
    expected = 0
    for index, episode in enumerate(recording.episodes):
        attempt = 0
        while not run_scripted(env, demonstration_seed(1, index, attempt), HARD["noise"]).succeeded:
            attempt += 1
        assert episode.succeeded
        assert episode.info["retries"] == attempt
        assert episode.info["seed"] == demonstration_seed(1, index, attempt)
        expected += attempt
    assert expected > 0, "the task must be hard enough to fail"
    assert recording.retries == open_dataset("reach").own["retries"] == expected


def test_the_number_of_workers_does_not_matter() -> None:
    one, two, other = (
        build("reach", **HARD, workers=workers, seed=seed, output=name).path
        for workers, seed, name in ((1, 0, "a-v0"), (2, 0, "b-v0"), (1, 1, "c-v0"))
    )
    assert same_datasets(one, two)
    assert not same_datasets(one, other)


def test_more_episodes_begin_with_the_same() -> None:
    few, many = (build("reach", **{**HARD, "episodes": n}, output=f"n{n}-v0").recording for n in (2, 4))
    for a, b in zip(few.episodes, many.episodes[:2], strict=True):
        np.testing.assert_array_equal(a.image, b.image)


def test_a_policy_that_never_succeeds() -> None:
    with pytest.raises(SettingError, match=f"no success in {MAX_ATTEMPTS}"):
        build("reach", steps=1)
    assert list_datasets() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes: found 0"),
        ({"workers": 0}, "workers: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"noise": 2.0}, "noise: found 2.0"),
        ({"steps": 0}, "episode_steps: found 0"),
        ({"camera": "paper"}, "found camera, which moto data build reach does not take"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build("reach", **options)


def test_unknown_names() -> None:
    with pytest.raises(SettingError, match="Did you mean metaworld/door-open"):
        build("metaworld/dor-open")
    with pytest.raises(SettingError, match="Did you mean metaworld/door-open"):
        build("door-open")
    with pytest.raises(SettingError, match="Did you mean door-open"):
        build_metaworld("dor-open")


def test_building_does_not_overwrite() -> None:
    build("reach", episodes=1, image_size=32)
    with pytest.raises(SettingError, match="already there"):
        build("reach", episodes=2, image_size=32)
    assert len(open_dataset("reach")) == 1
    build("reach", episodes=2, image_size=32, overwrite=True)
    assert len(open_dataset("reach")) == 2


def test_ensure_builds_once() -> None:
    path = ensure("reach", episodes=1, image_size=32, episode_steps=20)
    written = (path / "data" / "main_data.hdf5").stat().st_mtime_ns
    for name in ("reach", "moto_pl/reach-v0"):
        assert ensure(name, image_size=32, episode_steps=20) == path
    assert (path / "data" / "main_data.hdf5").stat().st_mtime_ns == written
    assert open_dataset(path)[0].length == 20


def test_ensure_by_id_builds() -> None:
    assert ensure("moto_pl/reach-v0", episodes=1) == open_dataset("reach").path


def test_no_output_is_the_one_by_default() -> None:
    path = ensure("reach", episodes=1, output=None)
    assert path == open_dataset("moto_pl/reach-v0").path == ensure("moto_pl/reach-v0", output=None)


def test_ensure_notices_other_options() -> None:
    ensure("reach", episodes=1, image_size=32)
    with pytest.raises(SettingError, match="image_size: found 32 in moto_pl/reach-v0.*Asked for 64"):
        ensure("reach", image_size=64)


def test_ensure_of_what_cannot_be_built() -> None:
    """Also beside one that could be, and has the name that a size of ours gives to its own."""
    other = build("reach", episodes=1, image_size=32, output="someone/own-v1")
    build("reach", episodes=1, image_size=32, output="ours/reach-v1")
    assert ensure("someone/own-v1", output="ours/reach-v1") == other.path
    with pytest.raises(SettingError, match="someone/else-v1"):
        ensure("someone/else-v1")


def test_errors_come_back_from_workers() -> None:
    plan = Plan("moto_pl/Reach-v0", {"image_size": 1}, episodes=2, seed=0, noise=0.0, info={})
    with pytest.raises(SettingError, match="image_size: found 1"):
        record(plan, workers=2)


_DYING = """
import os, gymnasium
from pathlib import Path
from moto_pl.envs.reach import ReachEnv
class Dying(ReachEnv):
    def __init__(self, once="", signal_number=9, **options):
        super().__init__(**options)
        self.once, self.number = once, signal_number
    def reset(self, seed=None, options=None):
        if not self.once or not Path(self.once).exists():
            Path(self.once or os.devnull).touch()
            os.kill(os.getpid(), self.number)
        return super().reset(seed=seed, options=options)
gymnasium.register('Dying-v0', entry_point=Dying)
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "dying_env.py").write_text(_DYING)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "dying_env:Dying-v0"
    gym.registry.pop("Dying-v0", None)


@pytest.mark.filterwarnings("ignore:a worker process")
def test_workers_that_keep_dying(dying: str) -> None:
    with pytest.raises(SettingError, match="3 processes lost over one job.*exit status -9.*moto doctor"):
        record(Plan(dying, {}, episodes=2, seed=0, noise=0.0, info={}), workers=2)


def test_a_worker_that_is_killed_is_replaced_and_its_episode_recorded_again(dying: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="a worker process ended with exit status -9; its job is done again"):
        found = record(Plan(dying, {"once": str(tmp_path / "once")}, 3, seed=0, noise=0.0, info={}), workers=2)
    expected = record(Plan("moto_pl/Reach-v0", {}, 3, seed=0, noise=0.0, info={}), workers=1)
    for left, right in zip(found.episodes, expected.episodes, strict=True):
        np.testing.assert_array_equal(left.image, right.image)
        np.testing.assert_array_equal(left.action, right.action)


def test_demonstration_seeds_are_no_evaluation_seeds() -> None:
    seeds = {demonstration_seed(s, i, j) for s in range(10) for i in range(20) for j in range(5)}
    assert len(seeds) == 1000
    assert 0 <= min(seeds) and max(seeds) < EVALUATION_SEEDS


@pytest.mark.slow
def test_metaworld_dataset() -> None:
    options: dict[str, Any] = {"episodes": 2, "steps": 60, "image_size": 32}
    two = build_metaworld("door-open", **options, workers=2).path
    one = build("metaworld/door-open", **options, workers=1, output="one-v0").path
    assert same_datasets(one, two)
    reader = open_dataset("metaworld/door-open")
    assert reader.check(32, 4) == [60, 60]
    own = reader.own
    assert own["env_kwargs"] == {
        "observe": ["image"],
        "image_size": 32,
        "camera": "paper",
        "render_quality": "fast",
        "action_repeat": 2,
        "episode_steps": 60,
        "paper_reset": False,
    }
    assert own["versions"].keys() >= {"mujoco", "metaworld", "gymnasium", "moto_pl"}
    first, second = reader
    assert first.succeeded and second.succeeded
    assert first.image.std() > 10  # something was drawn
    assert not np.array_equal(first.image[0], second.image[0])  # the door stands elsewhere
    assert ensure("metaworld/door-open", camera="paper", paper_reset=False) == two
    with pytest.raises(SettingError, match="paper_reset: found False"):
        ensure("metaworld/door-open", paper_reset=True)


def test_build_reach_is_what_build_calls() -> None:
    by_name, direct = build("reach", **HARD, output="a-v0"), build_reach(**HARD, output="b-v0")
    assert same_datasets(by_name.path, direct.path)


def test_two_that_need_one_dataset_build_it_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[str] = []

    @functools.wraps(build_reach)
    def slow(**options: Any) -> Built:
        built.append("begun")
        time.sleep(0.5)
        return build_reach(**options)

    monkeypatch.setattr(builders, "build_reach", slow)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: ensure("reach", episodes=2), range(2)))
    assert built == ["begun"] and paths[0] == paths[1] == root / "moto_pl" / "reach-v0"
    assert f"waiting for another process, which builds {paths[0]}" in capsys.readouterr().err
    assert [path.name for path in paths[0].parent.iterdir()] == ["reach-v0"], "a lock was left behind"
    with pytest.raises(SettingError, match="episodes: found 2"):
        ensure("reach", episodes=3)


def test_a_build_that_fails_gives_way_to_the_next(root: Path) -> None:
    with pytest.raises(SettingError, match="episodes"):
        ensure("reach", episodes=0)
    assert not list(root.rglob("*reach*"))
    assert ensure("reach", episodes=1).is_dir()
