"""Minari datasets of others, any of whose cameras may be taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from layouts import frames
from minari.data_collector import EpisodeBuffer

from moto_pl.datasets.formats.importing import import_dataset
from moto_pl.datasets.formats.minari_source import MinariSource
from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.datasets.formats.table import recognise
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import ObservationConfig
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError

STEPS = 4


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


#: Of the reset and each step, as Minari's collector has them.
INFOS = {
    "success": np.array([0, 0, 0, 0, 1], bool),
    "completed": np.array([[0, 0], [0, 0], [1, 0], [1, 0], [1, 1]], bool),
}


def write(
    root: Path, infos: Mapping[str, np.ndarray] = INFOS, bound: float = 1, name: str = "test/two-v0", **options: Any
) -> Path:
    """Two cameras and a state, by Minari's own writer."""
    cameras = {"front": frames(STEPS + 1, 0), "wrist": frames(STEPS + 1, 1)}
    state = np.arange(2 * (STEPS + 1), dtype=np.float32).reshape(-1, 2)
    box = {name: spaces.Box(0, 255, image.shape[1:], np.uint8) for name, image in cameras.items()}
    buffer = EpisodeBuffer(
        observations={"cameras": cameras, "state": state},
        actions=np.linspace(-1, 1, 2 * STEPS, dtype=np.float32).reshape(STEPS, 2),
        rewards=[0.0, 1.0, 0.0, 2.0],
        terminations=[False, False, False, True],
        truncations=[False] * STEPS,
        infos=dict(infos),
    )
    minari.create_dataset_from_buffers(
        name,
        [buffer],
        observation_space=spaces.Dict({"cameras": spaces.Dict(box), "state": spaces.Box(-1e9, 1e9, (2,), np.float32)}),
        action_space=spaces.Box(-bound, bound, (2,)),
        jpeg_encoding=False,
        **options,
    )
    return root / name


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_what_minari_writes(data_format: str, root: Path) -> None:
    if data_format == "arrow":
        pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    # Minari 0.5.4 cannot read a number a step in the infos of its own Arrow files.
    infos = INFOS if data_format == "hdf5" else {}
    path = write(root, infos, data_format=data_format)
    assert json.loads((path / "data/metadata.json").read_text())["data_format"] == data_format
    assert recognise(path) == "minari"
    source = MinariSource(path)
    assert (len(source), source.cameras) == (1, ("cameras/front", "cameras/wrist"))
    read = source.read(0)
    for number, name in enumerate(source.cameras):
        np.testing.assert_array_equal(list(read.cameras[name].frames()), frames(STEPS + 1, number))
    assert read.vectors["state"].shape == (STEPS + 1, 2) and read.terminated
    assert read.columns["rewards"].tolist() == [0, 1, 0, 2]
    assert (read.success is not None) == bool(infos)
    assert read.success is None or read.success.tolist() == [False, False, False, True]


def test_one_camera_of_it_becomes_a_dataset(root: Path) -> None:
    write(root)
    with pytest.raises(SettingError, match="--cameras: found 2 cameras"):
        import_dataset(["test/two-v0"], "test/one-v0", workers=1)
    import_dataset(["test/two-v0"], "test/one-v0", cameras=["cameras/wrist"], image_size=48, workers=1)
    episode = open_dataset("test/one-v0")[0]
    assert episode.terminated and episode.image.shape == (STEPS + 1, 48, 48, 3)
    assert episode.success.tolist() == [False, False, False, True]


def test_all_of_it_becomes_a_dataset(root: Path) -> None:
    """Both cameras, the state, and the Box of actions that it declares, in which these are half of it."""
    write(root, bound=2)
    cameras = ["front=cameras/front", "wrist=cameras/wrist"]
    done = import_dataset(["test/two-v0"], "test/all-v0", cameras=cameras, state=["qpos=state"], workers=1)
    reader = open_dataset("test/all-v0", wanted=ObservationConfig(("wrist", "front"), ("qpos",)))
    assert reader.scale == done.bounds == ActionScale.within(2.0, 2)
    episode = reader[0]
    np.testing.assert_array_equal(episode.vector, np.arange(10, dtype=np.float32).reshape(-1, 2))
    np.testing.assert_array_equal(episode.image[2, ..., :3], resize(frames(STEPS + 1, 1)[2], 64))
    np.testing.assert_array_equal(episode.image[2, ..., 3:], resize(frames(STEPS + 1, 0)[2], 64))
    np.testing.assert_allclose(episode.action, np.linspace(-0.5, 0.5, 2 * STEPS).reshape(STEPS, 2), atol=1e-7)


def test_what_is_damaged(root: Path) -> None:
    path = write(root)
    data = path / "data/main_data.hdf5"
    with h5py.File(data, "a") as file:
        del file["episode_0/actions"]
    with pytest.raises(Damaged, match="episode 0 of .*cannot be read"):
        MinariSource(path).read(0)
    data.write_bytes(data.read_bytes()[:3000])
    with pytest.raises(Damaged, match="cannot be read"):
        MinariSource(path)
    (path / "data/metadata.json").write_text("{}")
    with pytest.raises(SettingError, match="without a valid observation_space"):
        MinariSource(path)


@pytest.mark.parametrize(
    ("name", "array", "found"),
    [
        ("rewards", np.ones((STEPS, 2), np.float32), r"rewards \(4, 2\) for 4 actions in episode 0 of "),
        ("rewards", np.ones(0, np.float32), r"rewards \(0,\) for 4 actions in episode 0 of "),
        ("rewards", np.float32(1), "episode 0 of .*cannot be read|rewards .* for 4 actions in episode 0 of "),
        ("observations/state", np.float32(1), "state float32 .* in episode 0 of |episode 0 of .*cannot be read"),
        ("observations/state", np.ones((STEPS + 1, 2, 2)), r"state float64 \(5, 2, 2\) in episode 0 of "),
        ("observations/state", np.array([b"a"] * (STEPS + 1)), "state .* in episode 0 of |cannot be read"),
        ("terminations", np.bool_(True), "episode 0 of .*cannot be read"),
        ("rewards", np.ones((STEPS, 1), np.float32), None),
    ],
)
def test_arrays_of_other_shapes(name: str, array: np.ndarray, found: str | None, root: Path) -> None:
    """What is not one number or one vector a step is refused in a line, not cut to it."""
    path = write(root)
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = array
    if found is None:
        read = MinariSource(path).read(0)
        assert read.columns["rewards"].shape == (STEPS,) and read.terminated
        return
    with pytest.raises(SettingError, match=f"^source: found .*({found})"):
        MinariSource(path).read(0)


def test_two_flags_a_step_do_not_say_of_which_it_is_a_success(root: Path) -> None:
    path = write(root)
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        del file["episode_0/infos/success"]
        file["episode_0/infos/success"] = np.array([[0, 1]] * (STEPS + 1))
    assert MinariSource(path).read(0).success is None


def test_several_become_one(root: Path) -> None:
    """With all that is known of each step."""
    parts = [str(write(root, name=name)) for name in ("test/monday-v0", "test/tuesday-v0")]
    import_dataset(parts, cameras=["image=cameras/front"], output="test/both-v0", workers=1)
    episodes = list(open_dataset("test/both-v0"))
    assert [episode.info["source"] for episode in episodes] == ["monday-v0/0", "tuesday-v0/0"]
    for episode in episodes:
        assert np.array_equal(episode.success, INFOS["success"][1:])
        assert np.array_equal(episode.extras["completed"], INFOS["completed"][1:])


def test_success_by_its_other_name(root: Path) -> None:
    path = write(root, {"is_success": INFOS["success"]})
    episode = MinariSource(path).read(0)
    assert episode.success is not None and np.array_equal(episode.success, INFOS["success"][1:])
    assert episode.extras == {}
