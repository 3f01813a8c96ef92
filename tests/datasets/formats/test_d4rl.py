"""D4RL's HDF5, laid out as published."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import d4rl, frames, rows

from moto_pl.datasets.formats.d4rl import D4RL, recognises
from moto_pl.datasets.formats.table import recognise
from moto_pl.errors import SettingError

LENGTHS = [5, 3, 8]


@pytest.mark.parametrize("after", [True, False])
def test_episodes_end_at_terminals_and_timeouts(after: bool, tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", LENGTHS, after=after)
    assert recognise(path) == "d4rl"
    source = D4RL(path)
    assert (len(source), source.cameras, source.reward) == (3, ("pixels",), "rewards")
    for number, length in enumerate(LENGTHS):
        written, read = rows(length, number), source.read(number)
        np.testing.assert_array_equal(read.action, written["action"])
        np.testing.assert_array_equal(read.columns["rewards"], written["reward"])
        np.testing.assert_array_equal(read.vectors["state"][:length], written["state"])
        assert source.vectors == ("state",) and len(read.vectors["state"]) == length + after
        assert not after or (read.vectors["state"][-1] == 7).all()
        assert read.terminated == (number % 2 == 0)
        image = np.stack(list(read.cameras["pixels"].frames()))
        np.testing.assert_array_equal(image, frames(length + 1, number)[: length + after])


def test_what_mujoco_says_of_itself(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", LENGTHS)
    qpos = np.arange(sum(LENGTHS), dtype=np.float64)
    with h5py.File(path, "a") as file:
        file["infos/qpos"], file["infos/action_log_probs"] = np.c_[qpos, -qpos], qpos
        file["infos/goal"] = np.zeros(sum(LENGTHS), "i4")
    source = D4RL(path)
    assert source.vectors == ("state", "infos/action_log_probs", "infos/qpos")
    read = source.read(1).vectors
    np.testing.assert_array_equal(read["infos/qpos"], np.c_[qpos, -qpos][5:8])
    np.testing.assert_array_equal(read["infos/action_log_probs"], qpos[5:8, None])


def test_steps_after_the_last_end_are_an_episode(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", LENGTHS, timeouts=False)
    assert [len(D4RL(path).read(index).action) for index in range(2)] == [5, 11]


def test_observations_that_are_frames(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", [4])
    with h5py.File(path, "a") as file:
        image = file["observations/pixels"][()]
        del file["observations"]
        file["observations"] = image
    assert D4RL(path).cameras == ("observations",)


def test_states_alone(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", [4])
    with h5py.File(path, "a") as file:
        del file["observations"]
        file["observations"] = np.zeros((4, 60))
    assert recognises(path)
    with pytest.raises(SettingError, match="no frames in .*moto data render"):
        D4RL(path)


def test_frames_that_are_missing(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", LENGTHS)
    with h5py.File(path, "a") as file:
        image = file["observations/pixels"][:-1]
        del file["observations/pixels"]
        file["observations/pixels"] = image
    assert D4RL(path).read(1).cameras["pixels"].count == 3
    with pytest.raises(SettingError, match="7 rows of pixels for 8 actions in episode 2"):
        D4RL(path).read(2)
