import os
from pathlib import Path

import numpy as np
import pytest

from moto_pl.cli import main
from moto_pl.data.minari_io import list_datasets, open_dataset
from moto_pl.data.npz_import import import_npz, read_npz
from moto_pl.errors import SettingError

SHARED = Path(os.environ.get("MOTO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


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
    np.testing.assert_array_equal(read_npz(save(tmp_path / "a.npz"), least).success, np.array(expected, bool))


def test_a_directory_becomes_a_dataset(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        save(tmp_path / "expert" / f"{index}.npz", **arrays(seed=index))
    assert main(["data", "import", str(tmp_path / "expert"), "--env", "moto_pl/Kitchen-mixed-v0"]) == 0
    assert list_datasets() == ["moto_pl/import/expert-v0"]
    reader = open_dataset("import/expert")
    assert reader.own["env_id"] == "moto_pl/Kitchen-mixed-v0" and len(reader) == 2
    for index, episode in enumerate(reader):
        np.testing.assert_array_equal(episode.image, arrays(seed=index)["image"])
        assert episode.info["source"] == f"{index}.npz"
        # four objects make a success of this task
        np.testing.assert_array_equal(episode.success, [False, False, False, True])


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
        np.concatenate([np.zeros((4, 9)), np.full((1, 9), 1.5)]),
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
    with pytest.raises(SettingError, match=f"1.npz.*{key}|1.npz: image"):
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
        with pytest.raises(SettingError, match="npz"):
            import_npz([tmp_path / source])


def test_a_dataset_that_is_there_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "in" / "0.npz")
    import_npz([tmp_path / "in"])
    with pytest.raises(SettingError, match="already there"):
        import_npz([tmp_path / "in"])
    import_npz([tmp_path / "in"], overwrite=True)


def test_an_unknown_environment(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Did you mean moto_pl/Kitchen-mixed-v0"):
        import_npz([save(tmp_path / "0.npz")], env_id="moto_pl/Kitchen-mixd-v0")


def test_real_episodes() -> None:
    if not (SHARED / "kitchen_expert").is_dir():
        pytest.skip(f"no {SHARED}/kitchen_expert: set MOTO_SHARED_DATA to the folder that holds it")
    import_npz([SHARED / "kitchen_expert"], "moto_pl/expert-v0", "moto_pl/Kitchen-mixed-v0")
    reader = open_dataset("moto_pl/expert-v0")
    assert reader.check(64, 9) == [280] * 5
    assert [episode.total_reward for episode in reader] == [779, 771, 781, 771, 783]
    assert all(episode.succeeded for episode in reader)
