import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moto_pl.cli import main
from moto_pl.datasets.formats.importing import import_dataset
from moto_pl.datasets.minari_io import list_datasets, open_dataset
from moto_pl.datasets.npz_import import read_npz
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.envs.observation import ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.replay.filters import keep_rows

SHARED = Path(os.environ.get("MOTO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def import_npz(
    sources: Sequence[str | Path], output: str | None = None, env: str | None = None, **options: Any
) -> None:
    """As `moto data import` does, at the size of this file's frames, in this process."""
    import_dataset([str(path) for path in sources], output, env, **{"image_size": 8, "workers": 1, **options})


def arrays(rows: int = 5, seed: int = 0, terminal: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (rows, 9)).astype(np.float32)
    action[0] = 0
    return {
        "image": rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8),
        "action": action,
        "reward": np.arange(rows, dtype=np.float32),
        "is_first": np.arange(rows) == 0,
        "is_last": np.arange(rows) == rows - 1,
        "is_terminal": (np.arange(rows) == rows - 1) & terminal,
    }


def save(path: Path, **changes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**arrays(), **changes}
    np.savez(path, **{key: value for key, value in content.items() if value is not None})  # type: ignore[arg-type]
    return path


def test_the_action_of_a_row_is_the_one_before_its_frame(tmp_path: Path) -> None:
    written = arrays(terminal=True)
    episode = read_npz(save(tmp_path / "a.npz", **written, discount=np.ones(5)))
    np.testing.assert_array_equal(episode.image, written["image"])
    np.testing.assert_array_equal(episode.action, written["action"][1:])
    np.testing.assert_array_equal(episode.reward, [1, 2, 3, 4])
    assert episode.terminated and not episode.truncated
    assert read_npz(save(tmp_path / "b.npz")).truncated


@pytest.mark.parametrize(("least", "expected"), [(None, [1, 1, 1, 1]), (3.0, [0, 0, 1, 1])])
def test_which_steps_are_a_success(tmp_path: Path, least: float | None, expected: list[int]) -> None:
    import_npz([save(tmp_path / "a.npz")], "moto_pl/x-v0", success_reward=least)
    np.testing.assert_array_equal(open_dataset("moto_pl/x-v0")[0].success, np.array(expected, bool))


def test_a_directory_becomes_a_dataset(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        save(tmp_path / "expert" / f"{index}.npz", **arrays(seed=index))
    words = ["--env", "moto_pl/Kitchen-mixed-v0", "--image-size", "8", "--workers", "1"]
    assert main(["data", "import", str(tmp_path / "expert"), *words]) == 0
    assert list_datasets() == ["moto_pl/import/expert-v0"]
    reader = open_dataset("import/expert")
    assert reader.own["env_id"] == "moto_pl/Kitchen-mixed-v0" and len(reader) == 2
    for index, episode in enumerate(reader):
        np.testing.assert_array_equal(episode.image, arrays(seed=index)["image"])
        assert episode.info["source"] == f"{index}.npz"
        # four objects make a success of this task
        np.testing.assert_array_equal(episode.success, [False, False, False, True])


def test_other_frames_and_vectors(tmp_path: Path) -> None:
    """They are kept where they are asked for, with actions in any numbers; what is none is left alone."""
    wrist, joints = arrays(seed=9)["image"], np.arange(10.0).reshape(5, 2)
    others = {"wrist": wrist, "joints": joints, "notes": np.array([{}], object), "logits": np.zeros((3, 2))}
    path = save(tmp_path / "a.npz", **others, action=arrays()["action"] * 3)
    import_npz([path], "test/a-v0", cameras=["wrist=wrist", "front=image"], state=["joints"])
    episode = open_dataset("test/a-v0", wanted=ObservationConfig(("wrist",), ("joints",)))[0]
    np.testing.assert_array_equal(episode.image, wrist)
    np.testing.assert_array_equal(episode.vector, joints)
    reader = open_dataset("test/a-v0")
    own = arrays()["action"][1:] * 3
    np.testing.assert_allclose(reader.scale.to_environment(reader[0].action), own, atol=1e-6)
    with pytest.raises(SettingError, match="2 cameras .image, wrist. and none chosen"):
        import_npz([path], "test/b-v0")
    with pytest.raises(SettingError, match="'logits', which is not there"):
        import_npz([path], "test/b-v0", cameras=["image"], state=["logits"])
    with pytest.raises(SettingError, match="4 rows of wrist for 4 actions|rows of wrist"):
        import_npz([save(tmp_path / "b.npz", wrist=wrist[:3])], "test/b-v0", cameras=["image"])


BAD = {
    "image": (
        np.zeros((5, 8, 8, 3), np.float32),
        np.zeros((5, 8, 8), np.uint8),
        np.zeros((5, 8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((), np.uint8),
        None,
    ),
    "action": (
        np.zeros((4, 9), np.float32),
        np.zeros((5, 9), np.int64),
        np.full((5, 9), 0.5, np.float32),
        np.concatenate([np.zeros((4, 9)), np.full((1, 9), np.nan)]),
    ),
    "reward": (np.zeros((5, 1)), np.array([0, 0, np.inf, 0, 0]), np.array(["a"] * 5)),
    "is_first": (np.zeros(5, bool), np.array([1, 0, 1, 0, 0], bool), np.zeros(5)),
    "is_last": (np.array([0, 1, 0, 0, 0], bool), np.zeros(4, bool)),
    "is_terminal": (np.array([0, 0, 1, 0, 0], bool),),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_array_is_named_and_nothing_is_written(tmp_path: Path, root: Path, key: str, value: object) -> None:
    save(tmp_path / "in" / "0.npz")
    save(tmp_path / "in" / "1.npz", **{key: value})
    with pytest.raises(SettingError, match=f"1.npz.*{key}|1.npz: image|{key}.*1.npz"):
        import_npz([tmp_path / "in"])
    assert not list(root.rglob("*.hdf5")) and not list(root.rglob(".*"))


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read.*object arrays are not read"):
        read_npz(save(tmp_path / "a.npz", reward=np.array([{}] * 5, object)))


def test_files_that_are_none(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npz").read_bytes()
    for name, content in (("cut.npz", whole[: len(whole) // 2]), ("empty.npz", b""), ("text.npz", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingError, match="cannot be read"):
            read_npz(tmp_path / name)
    (tmp_path / "nothing").mkdir()
    for source in ("nothing", "not/there", "missing.npz"):
        with pytest.raises(SettingError, match="source: found"):
            import_npz([tmp_path / source])


def test_a_dataset_that_is_there_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.npz")
    import_npz([tmp_path / "in"])
    with pytest.raises(SettingError, match="already there"):
        import_npz([tmp_path / "in"])
    import_npz([tmp_path / "in"], overwrite=True)


def test_an_unknown_environment(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Did you mean moto_pl/Kitchen-mixed-v0"):
        import_npz([save(tmp_path / "0.npz")], env="moto_pl/Kitchen-mixd-v0")


def of_objects(rows: int = 41, **steps: int) -> dict[str, np.ndarray]:
    """Arrays as MOTO's authors keep them: a reward for each of the seven objects, from these rows on."""
    row = np.arange(rows)
    rewards = {f"reward {name}": np.zeros(rows, np.float32) for name in KITCHEN_OBJECTS}
    for name, first in steps.items():
        rewards[f"reward {name.replace('_', ' ')}"] = (row >= first).astype(np.float32)
    return {**arrays(rows), **rewards}


def test_a_reward_for_each_object_says_which_are_in_place(tmp_path: Path) -> None:
    content = of_objects(microwave=3, bottom_burner=9, kettle=12, light_switch=20)
    path = save(tmp_path / "a.npz", **{**content, "reward": None})
    renamed = {key.replace(" ", "_"): value > 0 for key, value in content.items() if key.startswith("reward ")}
    other = save(tmp_path / "b.npz", **{**arrays(41), **renamed, "reward": None})
    for file in (path, other):
        import_npz([file], "moto_pl/x-v0", "moto_pl/Kitchen-mixed-v0", overwrite=True)
        episode = open_dataset("moto_pl/x-v0")[0]
        for place, name in enumerate(KITCHEN_OBJECTS):
            np.testing.assert_array_equal(episode.extras["in_place"][:, place], content[f"reward {name}"][1:] > 0)
        assert episode.extras["completed"].argmax(axis=0).tolist() == [2, 11, 19, 0]
        np.testing.assert_array_equal(episode.reward, episode.extras["completed"].sum(axis=1))
        assert not episode.succeeded
        # Row 3 is where step 2 led: ten more are kept. The burner ends the prefix, for this task.
        assert keep_rows(episode, "progress", objects=KITCHEN_TASKS["mixed"]) == 3 + 11  # type: ignore[arg-type]
    import_npz([path], "moto_pl/y-v0", "moto_pl/Kitchen-partial-v0")
    partial = open_dataset("moto_pl/y-v0")[0]
    assert partial.reward.max() == 4 and partial.succeeded


def test_the_reward_is_the_tasks_whatever_the_files_was_of(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", **{**of_objects(slide_cabinet=7), "reward": np.full(41, 3.0)})
    assert read_npz(path, objects=KITCHEN_TASKS["mixed"]).reward.tolist() == [0] * 6 + [1] * 34
    assert read_npz(path, objects=KITCHEN_TASKS["partial"]).reward.sum() == 0
    assert read_npz(path).reward.tolist() == [3] * 40, "without a task, the file's own"
    assert read_npz(path).extras["in_place"].any(0).sum() == 1


def test_without_all_seven_the_task_alone_is_known(tmp_path: Path) -> None:
    content = of_objects(microwave=3)
    del content["reward hinge cabinet"]
    episode = read_npz(save(tmp_path / "a.npz", **content), objects=KITCHEN_TASKS["mixed"])
    assert episode.extras.keys() == {"completed"}
    del content["reward kettle"]
    assert not read_npz(save(tmp_path / "b.npz", **content), objects=KITCHEN_TASKS["mixed"]).extras
    with pytest.raises(SettingError, match="no reward"):
        read_npz(save(tmp_path / "c.npz", **{**content, "reward": None}), objects=KITCHEN_TASKS["mixed"])


@pytest.mark.parametrize("bad", [np.zeros(40), np.zeros((41, 1)), np.full(41, np.nan), np.full(41, "a")])
def test_a_bad_array_of_an_object_is_named(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(SettingError, match="a.npz: reward kettle"):
        read_npz(save(tmp_path / "a.npz", **{**of_objects(), "reward kettle": bad}))


def test_objects_that_are_counted_in_the_tasks_order(tmp_path: Path) -> None:
    # The second is done, slips, and is done again; the third is never.
    reward = np.array([0, 0, 1, 1, 2, 1, 2] + [2] * 34, np.float32)
    path = save(tmp_path / "a.npz", **{**arrays(41), "reward": reward})
    assert not read_npz(path, objects=KITCHEN_TASKS["mixed"]).extras, "only where it is asked for"
    words = ["--env", "moto_pl/Kitchen-mixed-v0", "--counted-in-order", "--image-size", "8", "--workers", "1"]
    assert main(["data", "import", str(path), *words]) == 0
    episode = open_dataset("import/a")[0]
    expected = np.stack([reward[1:] > place for place in range(4)], axis=1)
    np.testing.assert_array_equal(episode.extras["completed"], expected)
    assert "in_place" not in episode.extras
    assert keep_rows(episode, "progress", objects=KITCHEN_TASKS["mixed"]) == 4 + 11  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [5.0, 0.5, -1.0])
def test_a_reward_that_counts_nothing(tmp_path: Path, value: float) -> None:
    path = save(tmp_path / "a.npz", reward=np.array([0, 0, 1, value, 1], np.float32))
    with pytest.raises(SettingError, match=f"{value} in row 3.*leave it out"):
        import_npz([path], env="moto_pl/Kitchen-mixed-v0", counted_in_order=True)
    for env_id in (None, "moto_pl/Reach-v0"):
        with pytest.raises(SettingError, match="counted_in_order.*Say whose objects"):
            import_npz([path], env=env_id, counted_in_order=True)


@pytest.fixture
def expert() -> Path:
    if not (SHARED / "kitchen_expert").is_dir():
        pytest.skip(f"no {SHARED}/kitchen_expert: set MOTO_SHARED_DATA to the folder that holds it")
    return SHARED / "kitchen_expert"


def test_real_episodes_get_their_prefixes(expert: Path, gl: str) -> None:
    """The order that their count stands for is that in which the simulator sees their actions complete objects."""
    mixed = KITCHEN_TASKS["mixed"]
    env = KitchenEnv(joint_noise=0.0)
    files = [expert / f"expert_{number}.npz" for number in (0, 1, 4)]  # whose actions complete all four again
    import_npz(files, "moto_pl/expert-v0", "moto_pl/Kitchen-mixed-v0", counted_in_order=True)
    for episode in open_dataset("moto_pl/expert-v0"):
        env.start(0)
        in_place = []
        for action in episode.action:
            env.advance(action)
            in_place.append(env.all_in_place())
        replayed = np.stack(in_place)
        assert replayed.any(0).sum() == 4
        first = replayed[:, [KITCHEN_OBJECTS.index(name) for name in mixed]].argmax(0)
        np.testing.assert_allclose(episode.extras["completed"].argmax(0), first, atol=10)
        rows = keep_rows(episode, "progress", objects=mixed)  # type: ignore[arg-type]
        assert rows == int(np.flatnonzero(episode.reward == 4)[0]) + 12 < 170
    env.close()


def test_real_episodes(expert: Path) -> None:
    import_npz([SHARED / "kitchen_expert"], "moto_pl/expert-v0", "moto_pl/Kitchen-mixed-v0", image_size=64)
    reader = open_dataset("moto_pl/expert-v0")
    assert reader.check(64, 9) == [280] * 5
    assert [episode.total_reward for episode in reader] == [779, 771, 781, 771, 783]
    assert all(episode.succeeded for episode in reader)
