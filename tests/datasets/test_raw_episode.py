"""Recorded episodes as others write them: taken where there is one meaning, refused by dataset, episode and step."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.raw_episode import RawEpisode, clip_rounding
from moto_pl.errors import SettingError

STEPS = 5


def raw(**arrays: Any) -> RawEpisode:
    rng = np.random.default_rng(0)
    whole = RawEpisode(
        label="dataset my/own-v0",
        place="episode 3 of main_data.hdf5",
        image=rng.integers(0, 256, (STEPS + 1, 8, 8, 3), np.uint8),
        action=rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
        reward=np.array([0, 1, 0, 2, 0], np.float32),
        terminations=np.zeros(STEPS, bool),
        truncations=np.zeros(STEPS, bool),
        infos={},
    )
    return replace(whole, **arrays)


def read(episode: RawEpisode) -> Any:
    return episode.episode((8, 8, 3), 2, {})


def flags(*steps: int) -> np.ndarray:
    values = np.zeros(STEPS, bool)
    values[list(steps)] = True
    return values


def test_columns_are_taken_as_rows() -> None:
    success = np.array([0, 0, 1, 0, 1], bool)
    plain = raw(terminations=flags(4), truncations=flags(4), infos={"success": success})
    columns = replace(
        plain,
        reward=plain.reward[:, None],
        terminations=plain.terminations[:, None],
        truncations=plain.truncations[:, None],
        infos={"success": np.concatenate([[False], success])[:, None]},
    )
    for name in ("reward", "success", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(read(plain), name), getattr(read(columns), name))
    assert read(columns).reward.shape == (STEPS,) and read(columns).success.tolist() == success.tolist()


def test_one_entry_says_whether_the_episode_succeeded() -> None:
    for value in (True, False):
        for array in (np.array([value]), np.array([[float(value)]])):
            assert read(raw(infos={"success": array})).success.tolist() == [False] * 4 + [value]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"reward": np.zeros((STEPS, 2), np.float32)}, r"rewards \(5, 2\) in"),
        ({"terminations": np.zeros(3, bool)}, r"terminations \(3,\) for 5 rewards in"),
        ({"truncations": np.zeros((STEPS, 2), bool)}, r"truncations \(5, 2\) for 5 rewards in"),
        ({"terminations": flags(2, 4)}, r"a termination before the last of 5 steps, at step 2 of"),
        ({"truncations": flags(1)}, r"a truncation before the last of 5 steps, at step 1 of"),
        ({"infos": {"success": np.full(STEPS, np.nan)}}, r"infos\['success'\] nan at step 0 of"),
        ({"infos": {"is_success": np.array([0, 0, 0, 1, 0, np.nan])}}, r"infos\['is_success'\] nan at step 4 of"),
        ({"infos": {"success": np.array(["False"] * STEPS)}}, r"infos\['success'\] <U5 \(5,\) for 5 rewards in"),
        ({"infos": {"success": np.array([b"yes"])}}, r"infos\['success'\] \|S3 \(1,\) for 5 rewards in"),
        ({"infos": {"success": np.zeros(3, bool)}}, r"infos\['success'\] bool \(3,\) for 5 rewards in"),
        ({"infos": {"success": np.zeros((STEPS, 2), bool)}}, r"infos\['success'\] bool \(5, 2\) for 5 rewards in"),
        ({"action": np.full((STEPS, 2), 1.0001, np.float32)}, r"the action 1\.0001 \(dimension 0\) at step 0 of"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(arrays: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingError, match=rf"dataset my/own-v0: found {found} episode 3 of main_data\.hdf5\."):
        read(raw(**arrays))


def test_the_resets_success_may_be_unknown() -> None:
    assert read(raw(infos={"success": np.array([np.nan, 0, 0, 0, 0, 1])})).success.tolist() == [False] * 4 + [True]


def test_rounding_is_clipped() -> None:
    action = np.array([[1.0000001, -1.00001], [0.5, 1.0]], np.float32)
    assert clip_rounding(action).tolist() == [[1, -1], [0.5, 1]] and clip_rounding(action).dtype == np.float32
    beyond = np.array([1.00002, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(clip_rounding(beyond), beyond)
    unchanged = raw()
    np.testing.assert_array_equal(read(unchanged).action, unchanged.action)


def test_rounding_is_said_once(tmp_path: Path) -> None:
    path = build("reach", output=str(tmp_path / "reach"), episodes=3).path
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        for index in (0, 2):
            file[f"episode_{index}/actions"][1, 0] = np.float32(1.0000001)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reader = open_dataset(path)
        assert reader.check(64, 2) == [30] * 3 and reader[0].action[1, 0] == 1
    assert [("rounding" in str(one.message)) for one in said].count(True) == 1
