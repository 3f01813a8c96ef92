"""``moto data repair``: what is whole is kept bit for bit, what is not is named and moved, nothing is deleted."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from moto_pl import cli
from moto_pl.datasets import hdf5_check, salvage
from moto_pl.datasets.builders import build
from moto_pl.datasets.minari_io import list_datasets, open_dataset
from moto_pl.datasets.repair import look_at_dataset
from moto_pl.errors import SettingError
from moto_pl.replay import Episode

EPISODES = 5


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "d"
    build("reach", output=str(path), workers=1, episodes=EPISODES, steps=20, image_size=16)
    return path


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "sets" / "d"))


def file_of(dataset: Path) -> Path:
    return dataset / "data" / "main_data.hdf5"


def files(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def same(left: Episode, right: Episode) -> bool:
    arrays = ("image", "action", "reward", "success")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays)


def repaired(dataset: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Repairs; a dry run first, which changes nothing."""
    before = files(dataset.parent)
    assert cli.main(["data", "repair", str(dataset)]) == 1
    dry = capsys.readouterr().out
    assert "nothing was changed" in dry and files(dataset.parent) == before
    assert cli.main(["data", "repair", str(dataset), "--apply"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:-1] == dry.splitlines()[:-1]
    kept = files(dataset.parent / f".{dataset.name}.damaged")
    assert kept == {name.removeprefix(f"{dataset.name}/"): content for name, content in before.items()}
    return said


def test_a_sound_dataset_is_left_alone(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(dataset.parent)
    assert cli.main(["data", "repair", str(dataset), "--apply"]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert files(dataset.parent) == before


@pytest.mark.parametrize("said", ["not runnable", "fails", "fails later"])
def test_a_process_that_cannot_start_is_no_damage(
    said: str, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hdf5_check._check.cache_clear()
    before, run = files(dataset.parent), subprocess.run
    child = tmp_path / "python"
    child.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    child.chmod(0o755)

    def fails_later(command: list[str], **options: object) -> object:
        own = command[2] == salvage.__file__
        return run(command if own else [str(child)], **options)  # type: ignore[call-overload]

    if said == "fails later":  # what looks for episodes starts, and what looks through the file does not
        monkeypatch.setattr(subprocess, "run", fails_later)
    else:
        monkeypatch.setattr(sys, "executable", "/etc/passwd" if said == "not runnable" else str(child))
    for apply in ([], ["--apply"]):
        assert cli.main(["data", "repair", str(dataset), *apply]) == 2
        assert "main_data.hdf5, which no process could look through" in capsys.readouterr().err
    assert files(dataset.parent) == before


@pytest.mark.parametrize("share", [0.995, 0.85, 0.4])
def test_of_a_truncated_file_the_longest_whole_beginning_is_kept(
    share: float, sound: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = file_of(dataset).read_bytes()
    file_of(dataset).write_bytes(content[: int(share * len(content))])
    with pytest.raises(SettingError):
        open_dataset(dataset)
    said = repaired(dataset, capsys)
    kept, whole = open_dataset(dataset), open_dataset(sound)
    # The file is written an episode after the other: what lies before the cut is whole.
    assert len(kept) >= int(share * EPISODES) and (share > 0.9 or len(kept) < EPISODES)
    assert all(same(kept[i], whole[i]) and kept[i].info == whole[i].info for i in range(len(kept)))
    assert kept.metadata["total_steps"] == 20 * len(kept) and kept.own == whole.own
    for index in range(len(kept), EPISODES):
        assert f"episode_{index}: " in said
    assert cli.main(["data", "repair", str(dataset)]) == 0  # all is whole now


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.mark.parametrize("name", ["observations/image", "actions", "rewards", "infos/success"])
def test_a_flipped_bit_costs_its_episode_alone(
    name: str, sound: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(file_of(dataset), "r") as file:
        info = file[f"episode_2/{name}"].id.get_chunk_info(0)
    file_of(dataset).write_bytes(flipped(file_of(dataset).read_bytes(), info.byte_offset + info.size // 2))
    said = repaired(dataset, capsys)
    assert "4 episodes are whole, 1 are not" in said and "episode_2: " in said
    kept, whole = open_dataset(dataset), open_dataset(sound)
    assert [same(kept[i], whole[j]) for i, j in enumerate((0, 1, 3, 4))] == [True] * 4
    with h5py.File(file_of(dataset), "r") as file:
        assert [file[f"episode_{i}"].attrs["id"] for i in range(4)] == [0, 1, 2, 3]


def test_no_damage_anywhere_passes_into_what_is_kept(sound: Path, dataset: Path) -> None:
    """Flips and cuts at random places: whatever is called whole has the arrays that it had."""
    content, rng = file_of(dataset).read_bytes(), random.Random(0)
    arrays = [_arrays(sound, f"episode_{i}") for i in range(EPISODES)]
    lost = 0
    for trial in range(6):
        damaged = content
        for _ in range(12):
            damaged = flipped(damaged, rng.randrange(len(damaged)))
        if trial % 3 == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        file_of(dataset).write_bytes(damaged)
        found = look_at_dataset(dataset)
        lost += len(found.damages)
        for name in found.whole:
            with h5py.File(salvage.Padded(str(file_of(dataset))), "r") as file:
                for array, values in arrays[salvage.number(name)].items():
                    assert np.array_equal(file[f"{name}/{array}"][()], values), (trial, name, array)
    assert lost >= 6


def _arrays(dataset: Path, name: str) -> dict[str, np.ndarray]:
    with h5py.File(file_of(dataset), "r") as file:
        return {array: values[()] for array, values in salvage.arrays(file[name])}


def _unwritten_chunk(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_4/rewards"]
        file["episode_4"].create_dataset("rewards", (20,), "f4", chunks=(5,))[:10] = 1  # the library reads zeros


def _no_rewards(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_4/rewards"]


def _short(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_4/actions"]
        file["episode_4/actions"] = np.zeros((19, 2), np.float32)


def _linked(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["episode_4/rewards"]
        file["episode_4/rewards"] = h5py.ExternalLink("/etc/passwd", "/x")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_unwritten_chunk, "rewards has 2 of its 4 chunks"),
        (_no_rewards, "without rewards"),
        (_short, "actions of shape (19, 2) for 20 steps"),
        (_linked, "is a link"),
    ],
)
def test_a_half_written_episode_is_left_out(
    damage: Callable[[Path], None], said: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(file_of(dataset))
    assert said in repaired(dataset, capsys)
    assert len(open_dataset(dataset)) == 4


def test_a_builder_that_was_killed_leaves_what_it_had(
    sound: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metadata that were written when there was no episode yet, as in the hidden folder of a builder."""
    path = dataset / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 0, "total_steps": 0}))
    assert "metadata.json says 0 episodes" in repaired(dataset, capsys)
    assert len(open_dataset(dataset)) == EPISODES


@pytest.mark.parametrize("content", [b"", b'{"total_epi', b"\0" * 500, b'{"total_episodes": 1e999}'])
def test_metadata_are_made_anew(content: bytes, sound: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "data" / "metadata.json").write_bytes(content)
    assert "metadata.json is damaged" in repaired(dataset, capsys)
    kept, whole = open_dataset(dataset), open_dataset(sound)
    assert len(kept) == EPISODES and all(same(kept[i], whole[i]) for i in range(EPISODES))


def test_where_nothing_is_whole_only_the_name_is_free_again(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file_of(dataset).write_bytes(b"no HDF5 at all")
    assert "nothing takes its place" in repaired(dataset, capsys)
    assert not dataset.exists()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dataset.parent))
    assert list_datasets() == []  # what is moved aside is not taken for a dataset


def test_a_file_that_crashes_the_library(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The episode that it crashes on is lost, those before and after it are not."""
    crashing = (
        Path(salvage.__file__)
        .read_text()
        .replace(
            "            say(begun=name)\n",
            '            say(begun=name)\n            name == "episode_1" and os.abort()\n',
        )
    )
    (tmp_path / "salvage.py").write_text(crashing)
    monkeypatch.setattr(salvage, "__file__", str(tmp_path / "salvage.py"))
    found = look_at_dataset(dataset)
    assert list(found.whole) == ["episode_0", "episode_2", "episode_3", "episode_4"]
    assert "crashed" in found.damages["episode_1"]


def test_another_format_is_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dataset / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": "arrow"}))
    assert cli.main(["data", "repair", str(dataset)]) == 2
    assert "Only HDF5 can be repaired" in capsys.readouterr().err


def test_a_failed_copy_changes_nothing(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_rewards(file_of(dataset))
    found = look_at_dataset(dataset)
    before = files(dataset.parent)
    monkeypatch.setattr("moto_pl.datasets.repair._salvage", lambda *_: [{"failed": "a full disk"}])
    with pytest.raises(SettingError, match="a full disk"):
        found.apply()
    assert files(dataset.parent) == before
