import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from kitchen_datasets import record_states, with_in_place, write_log, write_minari, write_sequences
from minari.dataset.minari_storage import MinariStorage

from moto_pl.datasets import hdf5_check
from moto_pl.datasets.builders import build
from moto_pl.datasets.kitchen.states import STEP_S, StateEpisode, open_states, split_state
from moto_pl.envs.kitchen import objects_in_place
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("gl")
RECORDED: list[dict[str, np.ndarray]] = []


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def recorded() -> list[dict[str, np.ndarray]]:
    if not RECORDED:
        RECORDED.extend(record_states(episodes=2, steps=6, noise=0.0))
    return RECORDED


def test_splitting_a_state() -> None:
    """The order of Minari's 59 numbers, by their places."""
    numbers = np.arange(59.0)
    positions, velocities = split_state(numbers, "x")
    assert velocities is not None
    assert positions.tolist() == [*range(9), *range(18, 39)]
    assert velocities.tolist() == [*range(9, 18), *range(39, 59)]
    positions, none = split_state(np.arange(60.0), "x")
    assert positions.tolist() == list(range(30)) and none is None


@pytest.mark.parametrize("size", [0, 30, 58, 61])
def test_states_of_another_length(size: int) -> None:
    with pytest.raises(SettingError, match=f"states of {size} numbers. A kitchen state has 59"):
        split_state(np.zeros((3, size)), "x")


@pytest.mark.parametrize("layout", ["minari", "flat", "sequences", "log"])
def test_every_layout_gives_the_states_that_were_recorded(
    layout: str, recorded: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path = tmp_path / layout
    if layout in ("minari", "flat"):
        write_minari(path, recorded, "D4RL/kitchen/tiny-v2", flat=layout == "flat")
    elif layout == "sequences":
        shorter = {key: value[:4] for key, value in recorded[1].items()} | {"action": recorded[1]["action"][:3]}
        recorded = [recorded[0], shorter]
        write_sequences(path, recorded)
    else:
        for index, episode in enumerate(recorded):
            write_log(path / "friday_kettle" / f"{index}.mjl", episode)
    states = open_states(path)
    assert len(states) == 2
    for found, expected in zip(states, recorded, strict=True):
        np.testing.assert_allclose(found.positions, expected["position"], atol=1e-6)
        action = expected["action"]
        if layout == "log":  # of controls, which the simulator has limited to the joints' ranges
            action = (expected["control"][:-1] - expected["position"][:-1, :9]) / 0.16
        np.testing.assert_allclose(found.action, action, atol=1e-4)
        if layout in ("minari", "log"):
            np.testing.assert_allclose(found.velocities, expected["velocity"], atol=1e-5)
        else:  # differences, but of the kettle's quaternion
            moved = np.diff(found.positions[:, :26], axis=0) / STEP_S
            np.testing.assert_array_equal(found.velocities[1:, :26], moved)
            assert not found.velocities[0].any() and not found.velocities[:, 26:].any()
        assert found.action.dtype == np.float32


def test_which_objects_are_in_place_along_an_episode(recorded: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    changed = with_in_place(recorded[0], "kettle", 3)
    states = open_states(write_minari(tmp_path / "x", [changed], "D4RL/kitchen/tiny-v2"))
    expected = np.zeros((7, 7), bool)
    expected[3:, 1] = True
    np.testing.assert_array_equal(objects_in_place(states[0].positions), expected)


def test_a_process_that_cannot_start_is_no_damage(
    recorded: list[dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_minari(tmp_path / "a", recorded, "D4RL/kitchen/tiny-v2")
    hdf5_check._check.cache_clear()
    monkeypatch.setattr(sys, "executable", "/etc/passwd")
    with pytest.raises(SettingError, match="which no process could look through") as error:
        open_states(tmp_path / "a")
    assert "damaged" not in str(error.value)


def test_a_dataset_by_its_id(recorded: list[dict[str, np.ndarray]], root: Path) -> None:
    write_minari(root / "D4RL" / "kitchen" / "tiny-v2", recorded, "D4RL/kitchen/tiny-v2")
    assert open_states("D4RL/kitchen/tiny-v2").id == "D4RL/kitchen/tiny-v2"


def test_the_remote_is_asked_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    asked = []

    def download(dataset_id: str) -> None:
        asked.append(dataset_id)
        raise ConnectionError("no network")

    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(SettingError, match="--download"):
        open_states("D4RL/kitchen/mixed-v2")
    assert not asked
    with pytest.raises(SettingError, match="could not be fetched.*no network"):
        open_states("D4RL/kitchen/mixed-v2", download=True)
    assert asked == ["D4RL/kitchen/mixed-v2"]


def test_a_dataset_of_another_environment(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Use a dataset of Franka Kitchen"):
        open_states(build("reach", episodes=1, image_size=16).path)
    other = tmp_path / "adroit"
    other.mkdir()
    box = spaces.Box(-1, 1, (39,), np.float64)
    storage = MinariStorage.new(other / "data", observation_space=box, action_space=spaces.Box(-1.0, 1.0, (9,)))
    storage.update_metadata({"dataset_id": "D4RL/door/human-v2", "total_episodes": 1, "total_steps": 1})
    with pytest.raises(SettingError, match="D4RL/door/human-v2: found states of 39 numbers"):
        open_states(other)


def test_directories_that_hold_nothing(tmp_path: Path, recorded: list[dict[str, np.ndarray]]) -> None:
    with pytest.raises(SettingError, match="holds no dataset of states"):
        open_states(tmp_path)
    log = write_log(tmp_path / "cut.mjl", recorded[0])
    log.write_bytes(log.read_bytes()[:-10])
    with pytest.raises(SettingError, match="cut short"):
        open_states(log)[0]
    log.write_bytes(b"1234")
    with pytest.raises(SettingError, match="a log with 0 positions"):
        open_states(log)[0]
    log.unlink()
    log.symlink_to(tmp_path / "nowhere.mjl")
    with pytest.raises(SettingError, match="cut.mjl: found a log that cannot be read .No such file"):
        open_states(tmp_path)[0]
    write_sequences(tmp_path / "s", recorded)
    np.save(tmp_path / "s" / "existence_mask.npy", np.ones((3, 2)))
    with pytest.raises(SettingError, match="arrays"):
        open_states(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.full((3, 30), np.nan)}, "found nan at number 0 of state 0"),
        ({"velocities": np.full((3, 29), 1e300)}, "at number 30 of state 0"),
        ({"positions": np.zeros((3, 31))}, r"positions \(3, 31\)"),
        ({"positions": np.zeros((2, 30))}, r"positions \(2, 30\)"),
        ({"action": np.full((2, 9), 1.2, np.float32)}, "the action 1.2"),
        ({"action": np.full((2, 9), np.nan, np.float32)}, "the action nan"),
        ({"action": np.zeros((0, 9), np.float32)}, "one step or more"),
    ],
)
def test_states_that_cannot_be(change: dict[str, np.ndarray], message: str) -> None:
    good = {"positions": np.zeros((3, 30)), "velocities": np.zeros((3, 29)), "action": np.zeros((2, 9), np.float32)}
    StateEpisode("x", **good)
    with pytest.raises(SettingError, match=message):
        StateEpisode("x", **{**good, **change})
