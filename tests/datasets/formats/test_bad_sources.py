"""Sources that are damaged, wrong or meant to harm: each is one line, and nothing half-written."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from imports import ID, LENGTHS, bring, nothing_is_left, vectors
from layouts import (
    d4rl,
    encode,
    example,
    frames,
    lerobot_v2,
    lerobot_v3,
    psnr,
    rlds_episode,
    robomimic,
    rows,
    tfrecord,
)  # fmt: skip

from moto_pl.cli import main
from moto_pl.datasets import hdf5_check
from moto_pl.datasets.formats.importing import import_dataset
from moto_pl.datasets.formats.table import FORMATS
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.observation import ObservationConfig
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("root")


def test_a_vector_that_is_wrong(tmp_path: Path, root: Path) -> None:
    path = vectors(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_2/obs/grip"][1] = np.nan
    with pytest.raises(SettingError, match=r"source: found nan in grip \(dimension 0\) at step 1 of demo_2"):
        bring(path, cameras=["wrist_image"], state=["grip"])
    assert nothing_is_left(root)
    with h5py.File(path, "a") as file:
        del file["data/demo_2/obs/grip"], file["data/demo_2/next_obs/grip"]
        file["data/demo_2/obs/grip"] = np.zeros((LENGTHS[2], 2))
    with pytest.raises(SettingError, match="--state: found grip of 2 numbers in demo_2 of .* and of 1 in the first"):
        bring(path, cameras=["wrist_image"], state=["grip"])
    assert nothing_is_left(root)
    with h5py.File(path, "a") as file:
        del file["data/demo_2/obs/grip"]
    with pytest.raises(SettingError, match="--state: found no grip in demo_2 of .*Choose vectors that each episode"):
        bring(path, cameras=["wrist_image"], state=["grip"])
    assert nothing_is_left(root)


def test_cameras_of_different_lengths(tmp_path: Path, root: Path) -> None:
    """Each has a frame for each action, whichever of them is asked for; one more is what came after the last."""
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS, ("agentview_image", "wrist_image"), after=False)
    with h5py.File(path, "a") as file:
        longer = frames(LENGTHS[1] + 1, 11)
        del file["data/demo_1/obs/wrist_image"]
        file["data/demo_1/obs/wrist_image"] = longer
    both = ["front=agentview_image", "wrist=wrist_image"]
    bring(path, cameras=both)
    episode = open_dataset(ID, wanted=ObservationConfig(("wrist", "front")))[1]
    np.testing.assert_array_equal(episode.image[-1, ..., :3], resize(longer[-1], 64))
    np.testing.assert_array_equal(episode.image[-1, ..., 3:], episode.image[-2, ..., 3:])
    with h5py.File(path, "a") as file:
        shorter = file["data/demo_1/obs/wrist_image"][: LENGTHS[1] - 1]
        del file["data/demo_1/obs/wrist_image"]
        file["data/demo_1/obs/wrist_image"] = shorter
    with pytest.raises(SettingError, match="source: found 8 rows of wrist_image for 9 actions in demo_1 of ") as error:
        bring(path, cameras=both, overwrite=True)
    assert "\n" not in str(error.value) and not list(root.rglob("*.safetensors"))
    assert open_dataset(ID)[1].image.shape[-1] == 6  # what stood there stays
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/wrist_image"]
    with pytest.raises(SettingError, match="source: found no wrist_image in demo_1 .*Choose cameras that each episode"):
        bring(path, cameras=both, overwrite=True)
    assert not list(root.rglob("*.safetensors"))


@pytest.mark.parametrize("version", [2, 3])
def test_one_of_two_videos_is_short(version: int, tmp_path: Path, root: Path) -> None:
    """One line, and nothing half-written; the episodes before it can be kept, with both cameras."""
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    names = ["observation.images.top", "observation.images.wrist"]
    if version == 2:
        path = lerobot_v2(tmp_path / "arm", LENGTHS, names)
        encode(next(path.glob(f"videos/*/{names[1]}/episode_000001.mp4")), frames(LENGTHS[1] - 3, 11))
    else:
        path = lerobot_v3(tmp_path / "arm", [LENGTHS], names)
        whole = np.concatenate([frames(length, 10 + number) for number, length in enumerate(LENGTHS)])
        encode(next(path.glob(f"videos/{names[1]}/*/file-000.mp4")), whole[: sum(LENGTHS[:2]) - 3])
    options: dict[str, Any] = {"cameras": [f"top={names[0]}", f"wrist={names[1]}"], "state": ["observation.state"]}
    with pytest.raises(SettingError, match=r"no frame at \d+\.\d+ s, row 6 of 9") as error:
        bring(path, **options)
    assert "\n" not in str(error.value) and nothing_is_left(root)
    done = bring(path, **options, keep_whole_episodes=True)
    assert (done.episodes, done.left_out) == (1, 2) and names[1] in done.reason
    reader = open_dataset(ID, wanted=ObservationConfig(("top", "wrist"), ("state",)))
    assert len(reader) == 1
    np.testing.assert_array_equal(reader[0].vector[:-1], rows(LENGTHS[0], 0)["state"])  # type: ignore[index]
    for camera in range(2):
        shown = [resize(frame, 64) for frame in frames(LENGTHS[0], 10 * camera)]
        near = [psnr(reader[0].image[3, ..., 3 * camera : 3 * camera + 3], frame) for frame in shown]
        assert int(np.argmax(near)) == 3 and near[3] > 30


def test_a_state_of_another_type(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = lerobot_v2(tmp_path / "arm", LENGTHS, ["observation.images.top"], embedded=True)
    file = path / "data/chunk-000/episode_000002.parquet"
    table = pq.read_table(file)
    place = table.column_names.index("observation.state")
    for column, said in (
        (pa.array(["a"] * 4), "string in column observation.state"),
        (pa.array([[0.0] * 4] * 4), "lists of 4 numbers in column observation.state"),
        (pa.array([[1] * 5] * 4), "int64 in column observation.state"),
        (pa.array([[0.0, 1.0, float("nan"), 0.0, 0.0]] * 4), r"nan in observation.state \(dimension 2\) at step 0"),
    ):
        pq.write_table(table.set_column(place, "observation.state", column), file)
        with pytest.raises(SettingError, match=f"source: found {said}") as error:
            bring(path, state=["qpos=observation.state"])
        assert "\n" not in str(error.value) and nothing_is_left(root)


@pytest.mark.parametrize("after", ["d4rl", "minari"])
def test_a_link_to_another_file_in_a_state(after: str, tmp_path: Path, root: Path) -> None:
    """As in robomimic's files: what lies elsewhere is not read, whichever format would have it."""
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["state"] = np.zeros((4, 5), np.float32)
    if after == "d4rl":
        path = inner = d4rl(tmp_path / "a.hdf5", [4])
        place = "observations/state"
    else:
        bring(vectors(tmp_path / "lift.hdf5"), cameras=["wrist_image"], state=["grip"])
        path = Path(shutil.copytree(root / ID, tmp_path / "copy"))
        inner, place = path / "data/main_data.hdf5", "episode_0/observations/grip"
    with h5py.File(inner, "a") as file:
        del file[place]
        file[place] = h5py.ExternalLink(secret, "/state")
    with pytest.raises(SettingError, match="is a link, perhaps to another file") as error:
        import_dataset([str(path)], "test/linked-v0", workers=1)
    assert "\n" not in str(error.value) and not (root / "test/linked-v0").exists()


@pytest.mark.parametrize("kind", ["robomimic", "d4rl", "minari"])
def test_a_file_that_was_cut_anywhere_is_named(kind: str, tmp_path: Path, root: Path) -> None:
    path = file = (d4rl if kind == "d4rl" else robomimic)(tmp_path / "arm.hdf5", LENGTHS)
    if kind == "minari":
        bring(path)
        path = Path(shutil.move(root / ID, tmp_path / "copy"))
        file = path / "data/main_data.hdf5"
    whole = file.read_bytes()
    for size in (0, 5, 400, len(whole) // 3, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(SettingError, match=f"source: found .*{file.name}") as error:
            bring(path)
        assert "\n" not in str(error.value) and nothing_is_left(root)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can look through an HDF5 file, as where there is no room for one more."""
    hdf5_check._check.cache_clear()
    monkeypatch.setattr(sys, "executable", "/etc/passwd")


@pytest.mark.parametrize("write", [robomimic, d4rl])
def test_a_process_that_cannot_start_is_no_damage(
    write: Any, tmp_path: Path, root: Path, no_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It costs no episode, and no report calls the file damaged."""
    path = write(tmp_path / "lift.hdf5", LENGTHS)
    for keep in (False, True):
        with pytest.raises(SettingError, match="lift.hdf5, which no process could look through") as error:
            bring(path, keep_whole_episodes=keep)
        assert "\n" not in str(error.value) and "cannot be read" not in str(error.value)
    assert nothing_is_left(root)
    assert main(["data", "repair", str(path)]) == 2
    assert "which no process could look through" in capsys.readouterr().err


def test_a_process_that_cannot_start_for_the_second_of_two_files(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "arm").mkdir()
    paths = [robomimic(tmp_path / "arm" / name, LENGTHS) for name in ("a.hdf5", "b.hdf5")]
    check = hdf5_check.check_hdf5
    opened: list[Path] = []

    def later(path: Path) -> None:
        opened.append(path)
        if opened.count(paths[1]) > 1:  # the first time its format was looked for
            raise hdf5_check.no_process(path, "no room")
        check(path)

    monkeypatch.setattr("moto_pl.datasets.formats.hdf5.check_hdf5", later)
    with pytest.raises(SettingError, match="which no process could look through .no room"):
        bring(tmp_path / "arm", keep_whole_episodes=True)
    assert nothing_is_left(root)
    opened.clear()
    assert main(["data", "repair", str(tmp_path / "arm")]) == 2
    assert "which no process could look through" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_action_is_named_and_nothing_is_left(value: float, tmp_path: Path, root: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    with h5py.File(path, "a") as file:
        file["data/demo_2/actions"][1, 2] = value
    with pytest.raises(SettingError, match="source: found .*action.*at step 1 of demo_2 of .*lift.hdf5"):
        bring(path)
    assert nothing_is_left(root)


def test_actions_without_numbers(tmp_path: Path, root: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4])
    with h5py.File(path, "a") as file:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = np.zeros((4, 0))
    with pytest.raises(SettingError, match=r"source: found actions float32 \(4, 0\) in demo_0 of "):
        bring(path)
    assert nothing_is_left(root)


def test_a_link_to_nothing_in_a_folder(tmp_path: Path) -> None:
    """What is no file is no source, whatever the folder's format."""
    (tmp_path / "arm").mkdir()
    robomimic(tmp_path / "arm" / "lift.hdf5", [4])
    (tmp_path / "arm" / "gone.hdf5").symlink_to(tmp_path / "nowhere")
    (tmp_path / "arm" / "loop").symlink_to(tmp_path / "arm" / "loop")
    assert bring(tmp_path / "arm").episodes == 1
    bring(tmp_path / "arm", overwrite=True)
    (Path(shutil.move(open_dataset(ID).path, tmp_path / "copy")) / "notes").symlink_to(tmp_path / "nowhere")
    assert bring(tmp_path / "copy").episodes == 1


def test_episodes_of_several_sizes(tmp_path: Path, root: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((9, 2))
    with pytest.raises(SettingError, match="action sizes"):
        bring(path)
    assert nothing_is_left(root)


def test_what_is_no_dataset(tmp_path: Path, root: Path) -> None:
    files: dict[str, Path] = {name: tmp_path / name for name in ("a.zip", "a.tar.gz", "a.txt", "a.hdf5", "empty")}
    bomb = tmp_path / "zeros"
    bomb.write_bytes(b"\0" * (1 << 22))
    with zipfile.ZipFile(files["a.zip"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bomb, "meta/info.json")
    with tarfile.open(files["a.tar.gz"], "w:gz") as tar:
        tar.add(bomb, "meta/info.json")
    files["a.txt"].write_text("hello")
    with h5py.File(files["a.hdf5"], "w") as file:
        file["x"] = 1
    files["empty"].mkdir()
    for path in files.values():
        with pytest.raises(SettingError, match="of no known format. Known are: ") as error:
            bring(path)
        assert all(found.title in str(error.value) for found in FORMATS.values())
    with pytest.raises(SettingError, match="not/there, which is not there"):
        bring(tmp_path / "not/there")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match="of no known format"):
        bring(tmp_path / "pipe")
    assert nothing_is_left(root)


def test_how_much_of_a_source_is_whole(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``moto data repair`` reads all of it and changes nothing; what it says to import is what is imported."""
    records = [example(rlds_episode(length, seed)) for seed, length in enumerate(LENGTHS)]
    path = tfrecord(tmp_path / "a.tfrecord", records)
    repair = ["data", "repair", str(path)]
    assert main(repair) == 0
    said = capsys.readouterr().out
    assert said == f"{path}: 3 episodes of RLDS (tfrecord) are whole\nall is whole: nothing to repair\n"
    content = path.read_bytes()[:-20]
    path.write_bytes(content)
    assert main(repair) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 2 episodes of RLDS (tfrecord) are whole" and lines[1].startswith("behind them: ")
    command = lines[2].partition(": ")[2].partition(" takes the 2")[0]
    assert command == f"moto data import {path} --keep_whole_episodes"
    assert main([*command.split()[1:], "--workers", "1", "--output", ID]) == 0
    assert open_dataset(ID).check(64, 3) == LENGTHS[:2]
    assert main([*repair, "--apply"]) == 2 and path.read_bytes() == content
    assert "--apply: found" in capsys.readouterr().err


def test_a_frame_in_the_middle_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frames are decoded, of each camera; numbers that were recorded wrongly are no damage that an import skips."""
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    path = lerobot_v2(tmp_path / "arm", LENGTHS, ["observation.images.top", "observation.images.wrist"])
    encode(next(path.glob("videos/*/observation.images.wrist/episode_000001.mp4")), frames(3))
    assert main(["data", "repair", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 1 episodes of LeRobot v2 and v3 (a folder) are whole"
    assert "observation.images.wrist/episode_000001.mp4, which has no frame at 0.150 s, row 3 of 9" in lines[1]
    assert lines[2].endswith("--keep_whole_episodes takes the 1")
    wrong = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    with h5py.File(wrong, "a") as file:
        file["data/demo_2/actions"][1, 2] = np.nan
    assert main(["data", "repair", str(wrong)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ": 2 episodes of robomimic" in lines[0] and "nan in the action" in lines[1]
    assert lines[2] == "nothing was changed: copy it again, or leave that out"


def test_a_package_that_is_not_here_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    path = lerobot_v2(tmp_path / "arm", LENGTHS, ["observation.images.top"])
    for name in ("av", "pyarrow.parquet"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            assert main(["data", "repair", str(path)]) == 2
        said = capsys.readouterr()
        assert 'pip install "moto_pl[lerobot]"' in said.err and "are whole" not in said.out


def test_a_source_of_which_nothing_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    path.write_bytes(path.read_bytes()[:5000])
    assert main(["data", "repair", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 0 episodes are whole" and "which cannot be read" in lines[1]
    (tmp_path / "a.txt").write_text("hello")
    assert main(["data", "repair", str(tmp_path / "a.txt")]) == 2
    assert "of no known format" in capsys.readouterr().err
    assert main(["data", "repair", str(tmp_path / "not/there")]) == 2
    assert "no dataset at" in capsys.readouterr().err
