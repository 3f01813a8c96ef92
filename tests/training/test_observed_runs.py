"""Runs that learn from state vectors: from the dataset to the checkpoint; test_camera_runs.py kills one with both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_training import fit

from moto_pl.cli import main
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.offered import check_same_camera
from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore
from moto_pl.training.ingest import MARKER, ingest, observed
from runs import small

HAND = ObservationConfig(state=("hand",))
NAMES: dict[str, Any] = {"dataset": "my/reach-v0", "val_episodes": 1}
OBSERVED = {**NAMES, "observation": {"cameras": ["image"], "state": ["hand"]}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "reach"
    return build("reach", output=str(path), episodes=4, observe=["image", "hand"]).path


def test_a_dataset_holds_each_vector_under_its_name(dataset: Path) -> None:
    reader = open_dataset(dataset, wanted=HAND)
    assert reader.observation == Observation(("image",), {"hand": 2}, (0.0, 0.0), (1.0, 1.0))
    assert open_dataset(dataset)[0].vector is None
    with h5py.File(dataset / "data/main_data.hdf5") as file:
        stored = file["episode_1/observations/hand"][:]
    episode = reader[1]
    assert stored.dtype == np.float32 and episode.vector is not None and np.array_equal(episode.vector, stored)
    # The hand moves by 0.08 times the action, where no wall stops it.
    moved, inside = np.diff(stored, axis=0), (np.abs(stored[1:]) < 0.9).all(1)
    np.testing.assert_allclose(moved[inside], 0.08 * episode.action[inside], atol=1e-6)
    plain = open_dataset(build("reach", output=str(dataset.parent / "plain"), episodes=4).path)
    assert np.array_equal(plain[1].image, episode.image) and np.array_equal(plain[1].action, episode.action)


def test_vectors_that_a_dataset_does_not_have(dataset: Path) -> None:
    with pytest.raises(SettingError, match=r"no 'joints' among its observations. Name some of its hand in data"):
        open_dataset(dataset, wanted=ObservationConfig(state=("joints",)))
    with pytest.raises(SettingError, match=r"data\.observation\.cameras: found 'hand'.*: image"):
        open_dataset(dataset, wanted=ObservationConfig(("hand",), ("image",)))


def test_a_number_that_is_none_is_named(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    with h5py.File(copy / "data/main_data.hdf5", "a") as file:
        file["episode_2/observations/hand"][3, 1] = np.nan
    reader = open_dataset(copy, wanted=HAND)
    with pytest.raises(SettingError, match=r"nan in row 3.*episode 2 of|episode 2 of .*nan in row 3"):
        ingest(reader, OBSERVED, tmp_path / "replay")
    assert not (tmp_path / "replay").exists()


def test_statistics_are_those_of_the_demonstrations_that_are_trained_on(dataset: Path, tmp_path: Path) -> None:
    reader = open_dataset(dataset, wanted=HAND)
    assert observed(tmp_path, HAND) is None
    ingest(reader, OBSERVED, tmp_path)
    rows = np.concatenate([np.asarray(reader[i].vector, np.float64) for i in range(3)])
    found = observed(tmp_path, HAND)
    assert found is not None and found.layout == reader.observation.layout
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-6)
    store = EpisodeStore(tmp_path)
    assert all(np.array_equal(store[i].vector, reader[i].vector) for i in range(3))  # type: ignore[arg-type]


def test_a_number_that_does_not_vary_is_left_as_it_is(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    with h5py.File(copy / "data/main_data.hdf5", "a") as file:
        for i in range(4):
            file[f"episode_{i}/observations/hand"][:, 1] = 1e4
    ingest(open_dataset(copy, wanted=HAND), OBSERVED, tmp_path / "replay")
    found = observed(tmp_path / "replay", HAND)
    assert found is not None and found.std[1] == 1.0 and found.mean[1] == 1e4 and 0 < found.std[0] < 1


def test_a_replay_is_one_of_its_observations(dataset: Path, tmp_path: Path) -> None:
    for first, then in ((OBSERVED, NAMES), (NAMES, OBSERVED)):
        root = tmp_path / str(len(first))
        wanted = {len(OBSERVED): HAND}
        ingest(open_dataset(dataset, wanted=wanted.get(len(first), ObservationConfig())), first, root)
        ingest(open_dataset(dataset, wanted=wanted.get(len(first), ObservationConfig())), first, root)
        with pytest.raises(SettingError, match=r"data\.dataset: .*another trainer.default_root_dir"):
            ingest(open_dataset(dataset, wanted=wanted.get(len(then), ObservationConfig())), then, root)
    marker = tmp_path / str(len(OBSERVED)) / MARKER
    known = json.loads(marker.read_text())
    marker.write_text(json.dumps({**known, "observed": {**known["observed"], "std": [0.0, 1.0]}}))
    with pytest.raises(SettingError, match=r"dataset\.json: found a damaged file"):
        observed(marker.parent, HAND)
    assert "observed" not in json.loads((tmp_path / str(len(NAMES)) / MARKER).read_text())


STATE = ("--data.observation.state", "[hand]")


def assert_normalised(saved: dict[str, Any], marked: dict[str, Any]) -> None:
    """A checkpoint says what its agent observes, and its networks have the demonstrations' statistics."""
    assert saved["agent"]["observation"] == marked and marked["state"] == {"hand": 2}
    means = [value for name, value in saved["state_dict"].items() if name.endswith("normalised.mean")]
    assert means and all(torch.equal(mean[-2:], torch.tensor(marked["mean"])) for mean in means)


def test_a_run_sees_vectors_and_its_checkpoint_says_so(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other agents, with two cameras beside: test_camera_runs.py."""
    run = tmp_path / "run"
    args = fit(run, dataset, "--model", "moto_pl.agents.BC", *small("BC"), *STATE)
    assert main(args) == 0, capsys.readouterr().err
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert_normalised(saved, json.loads((run / "replay" / MARKER).read_text())["observed"])
    assert main(["test", *args[1:], "--data.test_episodes", "1"]) == 0, capsys.readouterr().err
    assert main(args[: -len(STATE)]) == 2
    assert "data.observation: found image, where the checkpoint's agent sees image, hand [2]" in capsys.readouterr().err


def test_what_an_environment_does_not_observe_is_said_in_a_line(
    dataset: Path, reach_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(tmp_path / "a", dataset, "--data.observation.state", "[joints]")) == 2
    assert "no 'joints' among its observations" in capsys.readouterr().err.splitlines()[-1]
    assert main(fit(tmp_path / "b", reach_dataset, *STATE)) == 2
    assert "no 'hand' among its observations. It has no vectors" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "a/replay").exists() and not (tmp_path / "b/replay").exists()


def test_a_vector_of_another_size_is_said_in_a_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto_pl.envs.reach import ReachEnv

    monkeypatch.setattr(ReachEnv, "VECTORS", {"hand": 3})
    monkeypatch.setattr(ReachEnv, "vector", lambda self, name: np.zeros(3))
    assert main(fit(tmp_path / "run", dataset, *STATE)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "data.observation: found 'hand' of 3 numbers in moto_pl/Reach-v0 and of 2 in" in line
    assert not (tmp_path / "run/replay").exists()  # nothing was copied: with the right dataset the same run begins


@pytest.mark.parametrize(
    ("recorded", "env", "options", "refused"),
    [
        (
            {"camera": "corner2"},
            "moto_pl/MetaWorld-reach-v0",
            {},
            "the camera paper, where x .*with corner2",
        ),
        ({"camera": "corner2"}, "moto_pl/MetaWorld-reach-v0", {"camera": "corner2"}, None),
        ({}, "moto_pl/Kitchen-mixed-v0", {"camera": "top"}, "the camera top, where x .*with paper"),
        ({}, "moto_pl/Kitchen-mixed-v0", {}, None),
        ({"camera": "corner2"}, "other/Robot-v0", {}, None),
        ({"image_size": 64}, "moto_pl/Reach-v0", {}, None),
    ],
)
def test_another_camera_is_refused(
    recorded: dict[str, Any], env: str, options: dict[str, Any], refused: str | None
) -> None:
    own = {"env_id": "moto_pl/MetaWorld-reach-v0", "env_kwargs": recorded}
    if refused is None:
        check_same_camera("x", own, env, options)
        check_same_camera("x", {}, env, options)
        return
    with pytest.raises(SettingError, match=f"data.env_options: found {refused}"):
        check_same_camera("x", own, env, options)
    check_same_camera("x", {"env_kwargs": recorded}, env, options)  # another's: nothing is known of it


def test_a_camera_given_by_its_numbers_is_the_same_however_it_is_written() -> None:
    numbers = {"distance": 1.0, "lookat": [0.0, 1.0, 2.0], "azimuth": 3.0, "elevation": -4.0}
    own = {"env_id": "moto_pl/MetaWorld-reach-v0", "env_kwargs": {"camera": numbers}}
    given = {"camera": {**numbers, "lookat": (0, 1, 2)}}
    check_same_camera("x", own, "moto_pl/MetaWorld-reach-v0", given)
