"""robomimic's HDF5, laid out as published."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import FPS, frames, robomimic, rows

from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.datasets.formats.robomimic import Robomimic, recognises
from moto_pl.errors import SettingError

LENGTHS = [4] * 9 + [70, 6]


@pytest.mark.parametrize("after", [True, False])
def test_numbers_and_frames_are_equal(after: bool, tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS, ("agentview_image", "wrist_image"), after)
    assert recognises(path)
    source = Robomimic(path)
    assert (len(source), source.fps, source.cameras) == (11, FPS, ("agentview_image", "wrist_image"))
    assert source.reward == "rewards"
    for number in (10, 9, 0):  # demo_10 is the last, not the second
        length = LENGTHS[number]
        written, read = rows(length, number), source.read(number)
        np.testing.assert_array_equal(read.action, written["action"])
        np.testing.assert_array_equal(read.columns["rewards"], written["reward"])
        np.testing.assert_array_equal(read.vectors["robot0_eef_pos"][:length], written["state"])
        for camera, name in enumerate(source.cameras):
            found = read.cameras[name]
            image = np.stack(list(found.frames()))
            assert found.count == len(image) == length + after == len(read.vectors["robot0_eef_pos"])
            np.testing.assert_array_equal(image, frames(length + 1, number + 10 * camera)[: length + after])


def test_images_with_the_channels_first(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4], after=False)
    with h5py.File(path, "a") as file:
        image = file["data/demo_0/obs/agentview_image"][()]
        del file["data/demo_0/obs/agentview_image"]
        file["data/demo_0/obs/agentview_image"] = image.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(list(Robomimic(path).read(0).cameras["agentview_image"].frames()), image)


def test_states_alone(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "demo.hdf5", [4])
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
        file["data/demo_0/states"] = np.zeros((4, 32))
    with pytest.raises(SettingError, match="states and actions alone.*Render its states first"):
        Robomimic(path)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("actions", None, "no /data/demo_0/actions"),
        ("actions", np.zeros(4), r"float64 \(4,\) as /data/demo_0/actions"),
        ("actions", np.array([[b"a"]] * 4), "as /data/demo_0/actions"),
        ("actions", np.full((4, 3), np.nan), "nan in the action"),
        ("actions", np.zeros((0, 3)), "0 steps"),
        ("rewards", np.zeros(3), r"rewards \(3,\) for 4 actions"),
        ("obs/agentview_image", np.zeros((3, 8, 8, 3), np.uint8), "3 rows of agentview_image for 4 actions"),
        ("obs/robot0_eef_pos", np.full((4, 2), np.inf), "inf in robot0_eef_pos"),
    ],
)
def test_an_array_that_is_wrong(name: str, array: np.ndarray | None, said: str, tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4], after=False)
    with h5py.File(path, "a") as file:
        del file[f"data/demo_0/{name}"]
        if array is not None:
            file[f"data/demo_0/{name}"] = array
    with pytest.raises(SettingError, match=f"source: found .*{said}"):
        Robomimic(path).read(0)


@pytest.mark.parametrize("kind", ["soft", "external", "virtual", "raw"])
def test_what_leads_out_of_the_file(kind: str, tmp_path: Path) -> None:
    path, other = robomimic(tmp_path / "lift.hdf5", [4]), robomimic(tmp_path / "other.hdf5", [4])
    name = "data/demo_0/obs/agentview_image"
    with h5py.File(path, "a") as file:
        shape = file[name].shape
        del file[name]
        if kind == "soft":
            file[name] = h5py.SoftLink("/data/demo_0/next_obs/agentview_image")
        elif kind == "external":
            file[name] = h5py.ExternalLink(str(other), name)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), name, shape)
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, shape, np.uint8, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(Damaged, match="agentview_image (is a link|lies in another file)"):
        Robomimic(path)


def test_sizes_that_the_file_cannot_hold(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4])
    with h5py.File(path, "a") as file:
        file.create_dataset("data/demo_0/obs/wrist_image", (10**6, 512, 512, 3), np.uint8, chunks=(1, 512, 512, 3))
    with pytest.raises(Damaged, match="wrist_image claims 786432000000 bytes"):
        Robomimic(path)


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4, 4])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Damaged, match="lift.hdf5, which cannot be read"):
        Robomimic(path)
