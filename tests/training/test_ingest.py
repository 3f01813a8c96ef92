"""A dataset is taken into a run once; another content under the same name is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import DatasetReader, open_dataset
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore
from moto_pl.training.ingest import MARKER, ingest, ingested, longest_demonstration

NAMES = {"dataset": "my/reach-v0", "val_episodes": 1}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("reach", output=str(tmp_path_factory.mktemp("datasets") / "reach"), episodes=4).path


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "reach"))


def take(dataset: Path, replay: Path, **names: Any) -> None:
    ingest(open_dataset(dataset), {**NAMES, **names}, replay)


def correct(dataset: Path) -> None:
    """One reward, in place: no size changes."""
    with h5py.File(dataset / "data/main_data.hdf5", "a") as file:
        file["episode_1/rewards"][3] = np.float32(0.25)


def test_taken_once_and_counted(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = tmp_path / "run/replay"
    assert longest_demonstration(replay) is None
    take(dataset, replay)
    assert ingested(replay) == 3 and longest_demonstration(replay) == 30
    assert len(EpisodeStore(replay)) == 3 and len(EpisodeStore(replay / "held_out")) == 1

    def refuse(self: DatasetReader, index: int) -> Any:
        raise AssertionError("an episode was read again")

    monkeypatch.setattr(DatasetReader, "__getitem__", refuse)
    take(dataset, replay)


@pytest.mark.parametrize("what", ["a reward", "the metadata", "an option"])
def test_a_dataset_that_has_changed_is_refused(what: str, dataset: Path, tmp_path: Path) -> None:
    replay = tmp_path / "run/replay"
    take(dataset, replay)
    if what == "an option":
        with pytest.raises(SettingError, match="holds.*another trainer.default_root_dir"):
            take(dataset, replay, noise=0.5)
        return
    data, metadata = dataset / "data/main_data.hdf5", dataset / "data/metadata.json"
    size = data.stat().st_size
    if what == "a reward":
        correct(dataset)
        assert data.stat().st_size == size
    else:
        metadata.write_text(metadata.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(SettingError, match=r"data\.dataset: found my/reach-v0, whose content has changed.*Put back"):
        take(dataset, replay)
    take(dataset, tmp_path / "another/replay")


def test_a_run_from_before_fingerprints_goes_on(dataset: Path, tmp_path: Path) -> None:
    replay = tmp_path / "run/replay"
    take(dataset, replay)
    known = json.loads((replay / MARKER).read_text())
    (replay / MARKER).write_text(json.dumps({key: known[key] for key in (*NAMES, "episodes")}))
    assert longest_demonstration(replay) == 30
    correct(dataset)
    take(dataset, replay)
    assert ingested(replay) == 3


def test_half_a_dataset_is_not_completed_with_another(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = tmp_path / "run/replay"
    append = EpisodeStore.append

    def interrupted(self: EpisodeStore, *args: Any) -> int:
        if len(self) == 2:
            raise KeyboardInterrupt
        return append(self, *args)

    monkeypatch.setattr(EpisodeStore, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take(dataset, replay)
    monkeypatch.setattr(EpisodeStore, "append", append)
    assert len(EpisodeStore(replay)) == 2 and longest_demonstration(replay) is None
    whole = Path(shutil.copytree(dataset, tmp_path / "whole"))
    correct(dataset)
    with pytest.raises(SettingError, match="whose content has changed"):
        take(dataset, replay)
    take(whole, replay)
    assert ingested(replay) == 3 and len(EpisodeStore(replay)) == 3


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff"])
def test_a_marker_that_cannot_be_read_is_named(content: str, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingError, match=r"dataset\.json: found a file that cannot be read"):
        take(dataset, tmp_path)


def test_no_episode_left_to_train_on(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.val_episodes: found 4. my/reach-v0 has 4 episodes"):
        take(dataset, tmp_path, val_episodes=4)
