"""LeRobot folders, laid out as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra lerobot")
pytest.importorskip("av", reason="needs the extra lerobot")

import pyarrow as pa
import pyarrow.parquet as pq
from layouts import FPS, SHAPE, encode, frames, lerobot_v2, lerobot_v3, psnr, rows

from moto_pl.datasets.formats import video
from moto_pl.datasets.formats.lerobot import LeRobot
from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.errors import SettingError

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = [7, 12, 5]
PSNR = 30.0


def make(version: str, root: Path, cameras: list[str], **options: Any) -> Path:
    if version == "v2.1":
        return lerobot_v2(root / "arm", LENGTHS, cameras, **options)
    return lerobot_v3(root / "arm", [LENGTHS[:2], LENGTHS[2:]], cameras, **options)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("embedded", [False, True])
def test_numbers_are_equal_and_frames_near(version: str, embedded: bool, tmp_path: Path) -> None:
    source = LeRobot(make(version, tmp_path, [TOP, WRIST], embedded=embedded))
    assert (len(source), source.fps, source.cameras) == (3, FPS, (TOP, WRIST))
    assert (source.columns, source.reward) == (("next.reward",), "next.reward")
    for number, length in reversed(list(enumerate(LENGTHS))):
        written, read = rows(length, number), source.read(number)
        assert read.action.dtype == np.float32
        np.testing.assert_array_equal(read.action, written["action"])
        np.testing.assert_array_equal(read.vectors["observation.state"], written["state"])
        np.testing.assert_array_equal(read.columns["next.reward"], written["reward"])
        assert read.vectors.keys() == {"observation.state"} and not read.terminated
        for camera, name in enumerate((TOP, WRIST)):
            shown, there = frames(length, number + 10 * camera), list(read.cameras[name].frames())
            assert len(there) == length == read.cameras[name].count
            for place in range(length):
                # Each frame is that of its own row, not the one before or after it.
                near = [psnr(there[place], other) for other in shown]
                assert int(np.argmax(near)) == place and near[place] > PSNR
                assert not embedded or near[place] == np.inf


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codebase_version": "v4.0"}, "version 'v4.0'.*Versions 2.0, 2.1 and 3 are read"),
        ({"fps": 0}, "0 frames a second"),
        ({"fps": "20"}, "fps is str"),
        ({"features": []}, "features is list"),
        ({"features": {"action": {"dtype": "float32"}}}, "feature action"),
        ({"features": {"action": {"dtype": "float32", "shape": [2, 3]}}}, "no flat action"),
        ({"features": {"v": {"dtype": "video", "shape": [1 << 20, 1 << 20, 3]}}}, "feature v"),
        ({"features": {"v": {"dtype": "video", "shape": []}}}, r"feature v of .*frames of \[\]"),
        ({"features": {"action": {"dtype": "float32", "shape": []}}}, "no flat action"),
        ({"data_path": "{episode_index.__class__}"}, "a path"),
        ({"data_path": "data/{video_key}/{episode_index:06d}.parquet"}, "a path"),
        ({"video_path": "videos/{video_key:03d}/{episode_index:06d}.mp4"}, "a path"),
        ({"data_path": "data/{episode_index:099999999d}.parquet"}, "a path"),
        ({"data_path": "../{episode_index}.parquet"}, "a path"),
        ({"data_path": "/etc/passwd"}, "a path"),
        ({"data_path": "data/{file_index}.parquet"}, "a path"),
    ],
)
def test_metadata_that_is_wrong(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [3], [TOP], embedded=True)
    edit_info(root, **changes)
    with pytest.raises(SettingError, match=f"source: found .*{said}"):
        LeRobot(root)


def test_names_that_no_file_has(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [3], [TOP])
    info = json.loads((root / "meta/info.json").read_text())
    camera = info["features"].pop(TOP)
    for name in ("a\0b", "a" * 300):
        edit_info(root, features={**info["features"], name: camera})
        with pytest.raises(Damaged, match="videos/chunk-000/a"):
            list(LeRobot(root).read(0).cameras[name].frames())
    edit_info(root, features=info["features"], data_path=f"data/{'a' * 300}.parquet")
    with pytest.raises(Damaged, match="data/aaa"):
        LeRobot(root).read(0)
    (root / "data/loop.parquet").symlink_to(root / "data/loop.parquet")
    edit_info(root, data_path="data/loop.parquet")
    with pytest.raises(Damaged, match="data/loop.parquet"):
        LeRobot(root).read(0)
    root = lerobot_v3(tmp_path / "arm3", [[3]], [TOP], embedded=True)
    replace_column(root / "meta/episodes/chunk-000/file-000.parquet", "data/file_index", pa.array([1e300]))
    with pytest.raises(Damaged, match="data/chunk-000/file-1000"):
        LeRobot(root).read(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "name", ["episode_index", "length", "data/file_index", "dataset_from_index", f"videos/{TOP}/from_timestamp"]
)
def test_where_an_episode_lies_is_no_place(name: str, value: float, tmp_path: Path) -> None:
    root = lerobot_v3(tmp_path / "arm", [[3, 4]], [TOP])
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    replace_column(path, name, pa.array([value, 3.0]))
    with pytest.raises(Damaged) as error:
        list(LeRobot(root).read(0).cameras[TOP].frames())
    assert "\n" not in str(error.value)


def replace_column(path: Path, name: str, array: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, array), path)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("action", pa.array(["a", "b", "c"]), "string in column action"),
        ("action", pa.array([[0.0] * 3, [0.0] * 2, [0.0] * 3]), "lists of 2, 3 numbers in column action"),
        ("action", pa.array([[0.0] * 3, None, [0.0] * 3]), "an empty place in column action"),
        ("action", pa.array([[0, 1, 0]] * 3), "int64 in column action"),
        ("action", pa.array([[0.0, float("nan"), 0.0]] * 3), "nan in the action .dimension 1. at step 0"),
        (
            "observation.state",
            pa.array([[0.0] * 5] * 2 + [[float("inf")] * 5]),
            "inf in observation.state .* at step 2",
        ),
        ("next.reward", pa.array([[1.0, 2.0]] * 3), "lists of 2 numbers in column next.reward"),
        ("episode_index", pa.array([0, 1, 0]), "a row of episode 1"),
    ],
)
def test_a_column_of_another_type(name: str, array: Any, said: str, tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [3], [TOP], embedded=True)
    replace_column(root / "data/chunk-000/episode_000000.parquet", name, array)
    with pytest.raises(SettingError, match=f"source: found .*{said}"):
        LeRobot(root).read(0)


def test_a_column_that_is_missing(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [3], [TOP], embedded=True)
    path = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    with pytest.raises(SettingError, match="no column action in .*There is .*observation.state"):
        LeRobot(root).read(0)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_fewer_rows_than_the_metadata_claims(version: str, tmp_path: Path) -> None:
    root = make(version, tmp_path, [TOP], embedded=True)
    path = next(iter(sorted(root.glob("data/*/*.parquet"))))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)
    with pytest.raises(Damaged, match="rows, and episode"):
        LeRobot(root).read(0 if version == "v2.1" else 1)


def test_a_row_group_that_claims_a_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of one value takes a few bytes, however many rows it has."""
    root = lerobot_v2(tmp_path / "arm", [3], [TOP], embedded=True)
    path = root / "data/chunk-000/episode_000000.parquet"
    replace_column(path, "action", pa.array([[0.0] * 100_000] * 3))
    assert path.stat().st_size < 100_000
    with pytest.raises(SettingError, match="300,000 values in 3 rows of column action"):
        LeRobot(root).read(0)


def test_an_embedded_image_that_claims_a_memory(tmp_path: Path) -> None:
    from PIL import Image

    root = lerobot_v2(tmp_path / "arm", [3], [TOP], embedded=True)
    path = root / "bomb.png"
    Image.new("1", (1 << 13, 1 << 13)).save(path)
    bomb = {"bytes": path.read_bytes(), "path": None}
    assert len(bomb["bytes"]) < 100_000  # type: ignore[arg-type]
    replace_column(root / "data/chunk-000/episode_000000.parquet", TOP, pa.array([bomb] * 3))
    with pytest.raises(Damaged, match="an image of 8192 x 8192"):
        list(LeRobot(root).read(0).cameras[TOP].frames())


def video_of(root: Path) -> Path:
    return next(iter(sorted(root.glob("videos/**/*.mp4"))))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_with_fewer_frames_than_rows(version: str, tmp_path: Path) -> None:
    root = make(version, tmp_path, [TOP])
    count = sum(LENGTHS[: 1 if version == "v2.1" else 2])
    encode(video_of(root), frames(count - 1))
    with pytest.raises(Damaged, match=r"no frame at 0.\d+ s, row \d+ of "):
        list(LeRobot(root).read(0 if version == "v2.1" else 1).cameras[TOP].frames())


def test_a_video_that_skips_a_frame(tmp_path: Path) -> None:
    """Times say which frame belongs to which row: none is taken for another's."""
    root = lerobot_v2(tmp_path / "arm", [8], [TOP])
    encode(video_of(root), frames(8), fps=FPS // 2)
    with pytest.raises(Damaged, match="no frame at 0.050 s, row 1 of 8"):
        list(LeRobot(root).read(0).cameras[TOP].frames())


def test_a_video_of_another_size_or_none(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [4], [TOP])
    path = video_of(root)
    whole = path.read_bytes()
    encode(path, frames(4, shape=(SHAPE[0] * 2, SHAPE[1])))
    with pytest.raises(Damaged, match="frames of 96 x 64, not 48 x 64"):
        list(LeRobot(root).read(0).cameras[TOP].frames())
    for content in (whole[: len(whole) // 2], b"", b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile x\n"):
        path.write_bytes(content)
        with pytest.raises(Damaged, match="cannot be read"):
            list(LeRobot(root).read(0).cameras[TOP].frames())
    path.unlink()
    with pytest.raises(Damaged, match="in which videos/.* is missing"):
        list(LeRobot(root).read(0).cameras[TOP].frames())


def test_a_link_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "arm", [4], [TOP])
    path = video_of(root)
    path.rename(tmp_path / "elsewhere.mp4")
    path.symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(SettingError, match="which leads elsewhere"):
        list(LeRobot(root).read(0).cameras[TOP].frames())


def test_the_hubs_cache_keeps_files_beside_the_folder(tmp_path: Path) -> None:
    root = lerobot_v2(tmp_path / "hub" / "snapshots" / "abc", [4], [TOP])
    path, blob = video_of(root), tmp_path / "hub" / "blobs" / "1"
    blob.parent.mkdir()
    path.rename(blob)
    path.symlink_to(blob)
    assert len(list(LeRobot(root).read(0).cameras[TOP].frames())) == 4


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode in the middle of a file is sought, and nothing after it is decoded."""
    root = lerobot_v3(tmp_path / "arm", [[20, 4, 20]], [TOP, WRIST])
    checked: list[Any] = []
    check = video._check_size
    monkeypatch.setattr(video, "_check_size", lambda *args: (checked.append(args), check(*args)))
    read = list(LeRobot(root).read(1).cameras[TOP].frames())
    assert len(read) == 4 and len(checked) == 5  # the stream's own size, and four frames
