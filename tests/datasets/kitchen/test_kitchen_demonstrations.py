import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moto_pl.datasets.builders import build, ensure
from moto_pl.datasets.kitchen import demonstrations
from moto_pl.datasets.kitchen.demonstrations import Demonstration, record_demonstration, relabel
from moto_pl.datasets.kitchen.orders import Order, sequence
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_ORDER, KITCHEN_TASKS
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, completion_order
from moto_pl.replay.filters import keep_rows

pytestmark = pytest.mark.usefixtures("gl")
# Too short for four objects, long enough for the first.
SHORT: dict[str, Any] = {"steps": 60, "image_size": 16, "keep_failures": True}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def in_this_process(
    function: Callable[[Demonstration], Episode], jobs: list[Demonstration], *_: int, **__: float
) -> Any:
    """Instead of processes, which take seconds to start."""
    return ((index, function(job)) for index, job in enumerate(jobs))


@pytest.fixture()
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Black frames, for what hangs on the arm alone: to draw an episode takes longer than to simulate it."""
    monkeypatch.setattr(demonstrations, "in_processes", in_this_process)
    monkeypatch.setattr(KitchenEnv, "view", lambda env, name: np.zeros((env.image_size, env.image_size, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_whole_of_partial_when_asked_for(root: Path) -> None:
    build("kitchen/partial", episodes=1, workers=1, task_share=1.0, image_size=16)
    episode = open_dataset("kitchen/partial")[0]
    assert episode.succeeded and episode.reward.max() == 4 and episode.extras["completed"].any(0).all()


@pytest.mark.slow
def test_the_built_dataset(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build("kitchen/mixed", episodes=2, workers=2, seed=4, **SHORT)
    reader = open_dataset("kitchen/mixed")
    assert reader.path == built.path and reader.check(16, 9) == [60] * 2
    own = reader.own
    assert own["env_kwargs"]["objects"] == list(KITCHEN_TASKS["mixed"])
    assert (own["order"], own["task_share"]) == ("canonical", None)
    assert (own["env_id"], own["seed"], own["episodes"]) == ("moto_pl/Kitchen-mixed-v0", 4, 2)
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
    monkeypatch.setattr(demonstrations, "in_processes", in_this_process)
    again = open_dataset(build("kitchen/mixed", episodes=2, workers=1, seed=4, output=root / "again", **SHORT).path)
    for left, right in zip(reader, again, strict=True):
        assert left.info == right.info
        for name in ("image", "action", "reward"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert ensure("kitchen/mixed", episodes=2, seed=4, keep_failures=True) == reader.path
    with pytest.raises(SettingError, match="noise"):
        ensure("kitchen/mixed", noise=0.2)
    # The other task's are these, with its own reward, wherever they come from.
    taken = build("kitchen/partial", episodes=2, workers=1, seed=4, **SHORT)
    (root / "moto_pl" / "kitchen" / "mixed-v0").rename(root / "hidden")
    fresh = build("kitchen/partial", episodes=2, workers=1, seed=4, output=root / "fresh", **SHORT)
    columns = [KITCHEN_OBJECTS.index(name) for name in KITCHEN_TASKS["partial"]]
    assert taken.recording.retries == fresh.recording.retries
    for left, right, mixed in zip(open_dataset(taken.path), open_dataset(fresh.path), again, strict=True):
        assert left.info == right.info and left.info["env_id"] == "moto_pl/Kitchen-partial-v0"
        np.testing.assert_array_equal(left.reward, left.extras["in_place"][:, columns].sum(axis=1))
        for name in ("image", "action", "reward", "success"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for name in ("completed", "in_place"):
            np.testing.assert_array_equal(left.extras[name], right.extras[name])
        np.testing.assert_array_equal(left.image, mixed.image)


def recorded(
    kind: str, in_place: np.ndarray, monkeypatch: pytest.MonkeyPatch, root: Path, **options: Any
) -> tuple[Path, int]:
    """Builds one episode; says how many were recorded rather than taken from the other task's dataset."""
    count = 0

    def record(plan: Demonstration) -> Episode:
        nonlocal count
        count += 1
        image = np.zeros((len(in_place) + 1, 8, 8, 3), np.uint8)
        zeros = np.zeros((len(in_place), 9), np.float32)
        plain = Episode(image, zeros, zeros[:, 0], False, True, zeros[:, 0] > 0, {"in_place": in_place}, {"retries": 0})
        return relabel(plain, plan.kind)

    with monkeypatch.context() as patch:
        patch.setattr(demonstrations, "in_processes", lambda _, jobs, *args, **options: in_this_process(record, jobs))
        env = SimpleNamespace(close=lambda: None, observation=Observation())
        patch.setattr(demonstrations, "KitchenEnv", lambda **options: env)
        return build(f"kitchen/{kind}", episodes=1, **options).path, count


def test_whose_episodes_are_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place = np.zeros((5, 7), bool)
    in_place[2:, KITCHEN_OBJECTS.index("bottom burner")] = True
    common = in_place, monkeypatch, root
    path, count = recorded("mixed", *common)
    assert count == 1 and open_dataset(path)[0].total_reward == 0
    others = {"seed": 1, "noise": 0.1, "jitter": 0.01, "image_size": 8, "order": "free", "task_share": 0.0}
    for option, value in others.items():
        options = {option: value}
        path, count = recorded("partial", *common, output=root / "other", overwrite=True, **options)
        assert count == 1, f"{options}: another dataset"
    path, count = recorded("partial", *common)
    episode = open_dataset(path)[0]
    assert count == 0 and episode.total_reward == 3 and episode.extras["completed"].any(0).tolist() == [0, 0, 1, 0]
    small = {"output": "moto_pl/kitchen/partial-small-v0", "image_size": 8}
    assert recorded("partial", *common, **small)[1] == 1
    assert recorded("mixed", *common, **{**small, "output": "moto_pl/kitchen/mixed-small-v0"})[1] == 0
    data = root / "moto_pl" / "kitchen" / "mixed-v0" / "data" / "main_data.hdf5"
    data.write_bytes(data.read_bytes()[:1000])
    assert recorded("partial", *common, overwrite=True)[1] == 1, "a damaged one is no help"


def test_defaults_may_be_named_of_one_that_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = np.zeros((5, 7), bool), monkeypatch, root
    path, _ = recorded("mixed", *common, joint_noise=0.0)
    assert ensure("kitchen/mixed", joint_noise=0.0, camera="paper", task_share=None) == path
    with pytest.raises(SettingError, match="joint_noise: found 0.0 in"):
        ensure("kitchen/mixed", joint_noise=0.01)
    free, _ = recorded("mixed", *common, order="free", output="moto_pl/free-v0")
    named = {"output": "moto_pl/free-v0", "order": "free"}
    assert ensure("kitchen/mixed", **named, task_share=None) == ensure("kitchen/mixed", **named, task_share=0.1) == free
    recorded("mixed", *common, order="free", task_share=0.5, output="moto_pl/free-v0", overwrite=True)
    with pytest.raises(SettingError, match="task_share: found 0.5 in"):
        ensure("kitchen/mixed", **named, task_share=None)


def test_a_killed_build_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that come in another order, some behind one that is missing, end in the dataset of an unbroken build."""
    recorded: list[int] = []

    def record(plan: Demonstration) -> Episode:
        recorded.append(plan.index)
        rng = np.random.default_rng(plan.index)
        image = rng.integers(0, 255, (6, 8, 8, 3), np.uint8)
        action = rng.uniform(-1, 1, (5, 9)).astype(np.float32)
        in_place = rng.random((5, 7)) < 0.5
        info: dict[str, Any] = {"retries": plan.index}
        plain = Episode(image, action, action[:, 0], False, True, in_place[:, 0], {"in_place": in_place}, info)
        return relabel(plain, plan.kind)

    def in_processes(order: list[int], killed: bool) -> Any:
        def results(_: Any, jobs: list[Demonstration], *__: int, **___: float) -> Any:
            yield from ((place, record(jobs[place])) for place in order)
            if killed:
                raise KeyboardInterrupt

        return results

    env = SimpleNamespace(close=lambda: None, observation=Observation())
    monkeypatch.setattr(demonstrations, "KitchenEnv", lambda **options: env)
    monkeypatch.setattr(demonstrations, "in_processes", in_processes([0, 1, 2, 3, 4], killed=False))
    unbroken = build("kitchen/mixed", episodes=5, output=root / "unbroken")

    monkeypatch.setattr(demonstrations, "in_processes", in_processes([1, 0, 3], killed=True))
    with pytest.raises(KeyboardInterrupt):
        build("kitchen/mixed", episodes=5)
    assert not (root / "moto_pl" / "kitchen" / "mixed-v0").exists()
    with pytest.raises(SettingError, match="half built from another source or with other settings"):
        build("kitchen/mixed", episodes=5, noise=0.1)
    recorded.clear()
    monkeypatch.setattr(demonstrations, "in_processes", in_processes([2, 0, 1], killed=False))
    built = build("kitchen/mixed", episodes=5)
    assert recorded == [4, 2, 3], "what was there was recorded again"
    assert built.recording.retries == unbroken.recording.retries == 10
    for left, right in zip(open_dataset(unbroken.path), open_dataset(built.path), strict=True):
        assert left.info | {"source": ""} == right.info | {"source": ""}
        for name in ("image", "action", "reward", "success"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        np.testing.assert_array_equal(left.extras["in_place"], right.extras["in_place"])
    assert {path.name for path in built.path.parent.iterdir()} == {"mixed-v0"}, "parts were left behind"


def test_an_arm_that_keeps_failing_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "MAX_ATTEMPTS", 1)
    monkeypatch.setattr(demonstrations, "in_processes", in_this_process)
    with pytest.raises(SettingError, match="not once in 1 attempts"):
        build("kitchen/mixed", episodes=1, steps=5, image_size=8)
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_a_dataset_from_before_the_choice_of_order_is_free(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = recorded("mixed", np.zeros((5, 7), bool), monkeypatch, root, order="free")
    metadata = path / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    assert content["moto_pl"].pop("order") == "free" and content["moto_pl"].pop("jitter") == 0.005
    metadata.write_text(json.dumps(content))
    assert ensure("kitchen/mixed", order="free", jitter=0.005) == path == ensure("kitchen/mixed")
    with pytest.raises(SettingError, match="order: found free in moto_pl/kitchen/mixed-v0.*Asked for canonical.*leave"):
        ensure("kitchen/mixed", order="canonical")


def plan(
    kind: str,
    objects: tuple[str, ...],
    noise: float = 0.0,
    keep: bool = False,
    order: Order = "canonical",
    **kwargs: Any,
) -> Demonstration:
    env_kwargs = {"objects": list(KITCHEN_TASKS[kind]), "image_size": 8, **kwargs}
    return Demonstration(kind, 0, objects, 0, noise, keep, order, env_kwargs)


def states(*ends: tuple[str, int, int]) -> np.ndarray:
    """Which objects are in place after each of ten steps, from and until those of ``ends``."""
    in_place = np.zeros((10, 7), bool)
    for name, first, until in ends:
        in_place[first:until, KITCHEN_OBJECTS.index(name)] = True
    return in_place


MKTH = ("microwave", "kettle", "top burner", "hinge cabinet")
ALL_FOUR = [(name, 2 * place, 10) for place, name in enumerate(MKTH)]


@pytest.mark.parametrize(
    ("ends", "canonical", "free"),
    [
        (ALL_FOUR, True, True),
        (ALL_FOUR[:3], False, False),
        ([*ALL_FOUR[:3], ("hinge cabinet", 7, 9)], False, True),  # not in place at the end
        ([*ALL_FOUR[:2], ("hinge cabinet", 4, 10), ("top burner", 6, 10)], False, True),
        ([*ALL_FOUR, ("slide cabinet", 8, 10)], False, True),  # another one
        ([*ALL_FOUR, ("slide cabinet", 8, 9)], True, True),
        ([*ALL_FOUR, ("bottom burner", 8, 9), ("light switch", 8, 9)], False, True),  # partial's four, if for a moment
    ],
)
def test_which_attempts_are_kept(ends: list[tuple[str, int, int]], canonical: bool, free: bool) -> None:
    assert plan("mixed", MKTH).accepts(states(*ends)) == canonical
    assert plan("mixed", MKTH, order="free").accepts(states(*ends)) == free
    whole = len(ends) == 6
    assert plan("mixed", MKTH, keep=True).accepts(states(*ends)) == (not whole)
    assert plan("partial", MKTH, keep=True, order="free").accepts(states(*ends)) == (not whole)


@pytest.mark.usefixtures("undrawn")
def test_a_success_is_recorded_and_a_failure_dropped_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    either = ("slide cabinet", "light switch")
    episode = record_demonstration(plan("mixed", either, order="free", episode_steps=90))
    assert episode.info["operated"] == 2 and episode.info["retries"] == 0
    assert episode.reward[-1] == 2 and not episode.succeeded
    monkeypatch.setattr("moto_pl.datasets.kitchen.demonstrations.MAX_ATTEMPTS", 2)
    hopeless = {"objects": ("kettle", "microwave"), "episode_steps": 20}
    with pytest.raises(SettingError, match="not once in 2 attempts"):
        record_demonstration(plan("mixed", **hopeless))  # type: ignore[arg-type]
    kept = record_demonstration(plan("mixed", **hopeless, keep=True))  # type: ignore[arg-type]
    assert kept.info["operated"] == 0 and kept.reward.sum() == 0


@pytest.mark.usefixtures("undrawn")
def test_partial_never_keeps_its_whole_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.datasets.kitchen.demonstrations.MAX_ATTEMPTS", 1)
    # In another order than the task's own, which is recorded where it is asked for (task_share).
    whole = KITCHEN_TASKS["partial"][1:] + KITCHEN_TASKS["partial"][:1]
    free = record_demonstration(plan("mixed", whole, order="free"))
    assert free.info["operated"] == 4, "the arm can do it"
    with pytest.raises(SettingError, match="not once"):
        record_demonstration(plan("partial", whole, keep=True, order="free"))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_every_built_episode_is_in_canonical_order(root: Path) -> None:
    """Four objects and no other, as the episode's own record has them, and as the filter takes them."""
    # All 24 are test_kitchen_arm.py's; attempts in a wrong order are test_which_attempts_are_kept's.
    reader = open_dataset(build("kitchen/mixed", episodes=3, image_size=8, seed=2).path)
    for index, episode in enumerate(reader):
        order = [KITCHEN_OBJECTS[column] for column, _ in completion_order(episode.extras["in_place"])]
        assert tuple(order) == sequence("mixed", index, 2) and episode.info["sequence"] == ", ".join(order)
        assert order == sorted(order, key=KITCHEN_ORDER.index)
        partial = [KITCHEN_OBJECTS.index(name) for name in KITCHEN_TASKS["partial"]]
        assert not episode.extras["in_place"][:, partial].any(0).all()
        assert keep_rows(episode, "progress", objects=order) > 41  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"episodes": 0}, "episodes"),
        ({"workers": 0}, "workers"),
        ({"seed": -1}, "seed"),
        ({"noise": 2.0}, "noise"),
        ({"jitter": 0.2}, "jitter"),
        ({"task_share": -0.1}, "task_share"),
        ({"objects": ["kettle"]}, "objects"),
        ({"steps": 0}, "episode_steps"),
        ({"order": "any"}, "order"),
        ({"flavour": "sweet"}, "flavour"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(root: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build("kitchen/partial", **options)
    assert not list(root.iterdir())
