"""Against the packages whose formats these are: what they write is read, and what is written they read.

Neither is among this project's packages: lerobot 0.6, whose files are v3, needs Python 3.12, and an older PyAV (15);
lerobot 0.3 is the last that writes v2.1. By hand, each in an environment of its own::

    pip install "lerobot[dataset,av-dep]==0.6.1" robomimic pytest && pytest tests/datasets/formats/test_peers.py
    pip install lerobot==0.3.3 pytest && pytest tests/datasets/formats/test_peers.py
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import FPS, SHAPE, frames, psnr, rows

PSNR = 28.0
LENGTHS = [7, 12, 5]
CAMERAS = ("observation.images.top", "observation.images.wrist")


def episodes() -> list[Any]:
    from moto_pl.replay.episode import Episode

    return [
        Episode(
            image=frames(length + 1, seed, (64, 64)),
            action=rows(length, seed)["action"],
            reward=rows(length, seed)["reward"],
            terminated=False,
            truncated=True,
            success=rows(length, seed)["reward"] > 0,
        )
        for seed, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("videos", [True, False])
def test_what_lerobot_writes(videos: bool, tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="needs lerobot")
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

    from moto_pl.datasets.formats.lerobot import LeRobot

    kind = "video" if videos else "image"
    features: dict[str, Any] = {
        name: {"dtype": kind, "shape": (*SHAPE, 3), "names": ["height", "width", "channels"]} for name in CAMERAS
    }
    features["action"] = {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]}
    features["observation.state"] = {"dtype": "float32", "shape": (5,), "names": None}
    features["next.reward"] = {"dtype": "float32", "shape": (1,), "names": None}
    written = LeRobotDataset.create("test/arm", FPS, features, root=tmp_path / "arm", use_videos=videos)
    for number, length in enumerate(LENGTHS):
        found = rows(length, number)
        shown = [frames(length, number + 10 * camera) for camera in range(2)]
        for row in range(length):
            frame: dict[str, Any] = {name: shown[camera][row] for camera, name in enumerate(CAMERAS)}
            frame |= {"action": found["action"][row], "observation.state": found["state"][row]}
            frame |= {"next.reward": found["reward"][row : row + 1]}
            if "task" in inspect.signature(written.add_frame).parameters:  # before v3
                written.add_frame(frame, "lift")
            else:
                written.add_frame(frame | {"task": "lift"})
        written.save_episode()
    if CODEBASE_VERSION == "v3.0":
        written.finalize()
    source = LeRobot(tmp_path / "arm")
    assert (len(source), source.cameras, source.fps) == (3, CAMERAS, FPS)
    least = np.inf
    for number, length in enumerate(LENGTHS):
        read = source.read(number)
        np.testing.assert_array_equal(read.action, rows(length, number)["action"])
        np.testing.assert_array_equal(read.columns["next.reward"], rows(length, number)["reward"])
        np.testing.assert_array_equal(read.vectors["observation.state"], rows(length, number)["state"])
        for camera, name in enumerate(CAMERAS):
            there = list(read.cameras[name].frames())
            assert len(there) == length
            for left, right in zip(there, frames(length, number + 10 * camera), strict=True):
                least = min(least, psnr(left, right))
    print(f"lerobot's {CODEBASE_VERSION} {kind}s: {least:.1f} dB at least")
    assert least > (PSNR if videos else 1e9)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("robot", [False, True])
def test_lerobot_reads_what_is_written(robot: bool, lossless: bool, tmp_path: Path) -> None:
    """One camera, as the papers have it; and a robot's: two, vectors (one of a single number), actions in degrees."""
    pytest.importorskip("lerobot", reason="needs lerobot, and with it Python 3.12")
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

    if CODEBASE_VERSION != "v3.0":
        pytest.skip(f"this lerobot reads {CODEBASE_VERSION}; what is written here is v3.0")

    from moto_pl.datasets.formats.write_lerobot import write_lerobot
    from moto_pl.datasets.own_actions import OwnActions
    from moto_pl.envs.actions import ActionScale
    from moto_pl.envs.observation import Observation

    root, written = tmp_path / "out", episodes()
    root.mkdir()
    cameras, seen, degrees = ["observation.image"], Observation(), np.float32(1)
    if robot:
        cameras, degrees = ["observation.images.front", "observation.images.wrist"], np.float32(128)
        seen = Observation(("front", "wrist"), {"qpos": 4, "grip": 1}, (0.0,) * 5, (1.0,) * 5)
        written = [
            replace(one, image=np.concatenate([one.image, one.image[:, ::-1]], -1), vector=state(one.length))
            for one in written
        ]
    actions = OwnActions(ActionScale.within(128.0, 3), lambda episode: episode.action * degrees)
    write_lerobot(root, iter(written), FPS, "reach the goal", lossless, seen, actions)
    read = LeRobotDataset("test/out", root=root)
    assert (read.num_episodes, read.num_frames, read.fps) == (3, sum(LENGTHS), FPS)
    assert read.meta.stats["action"]["mean"].shape == (3,) and sorted(read.meta.camera_keys) == sorted(cameras)
    assert all(read.meta.stats[name]["mean"].shape == (3, 1, 1) for name in cameras)
    row, least = 0, np.inf
    for number, one in enumerate(written):
        for step in range(one.length):
            item = read[row]
            np.testing.assert_array_equal(item["action"].numpy(), one.action[step] * degrees)
            assert item["next.reward"].item() == one.reward[step] and item["task"] == "reach the goal"
            assert item["episode_index"].item() == number and item["frame_index"].item() == step
            assert item["next.success"].item() == one.success[step]
            if robot:
                np.testing.assert_array_equal(item["observation.qpos"].numpy(), one.vector[step, :4])
                assert item["observation.grip"].item() == one.vector[step, 4]
            for place, name in enumerate(cameras):
                image = (item[name].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
                least = min(least, psnr(image, one.image[step, ..., 3 * place : 3 * place + 3]))
            row += 1
    print(f"read by lerobot: {least:.1f} dB at least")
    assert least > (1e9 if lossless else 36.0)


def state(steps: int) -> np.ndarray:
    """Vectors of five numbers."""
    return np.random.default_rng(steps).standard_normal((steps + 1, 5)).astype(np.float32)


def test_robomimic_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("robomimic", reason="needs robomimic")
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    from moto_pl.datasets.formats.write_robomimic import CAMERA, write_robomimic

    path = tmp_path / "a.hdf5"
    assert write_robomimic(path, iter(episodes()), "moto_pl/Reach-v0", {}) == 3
    obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": [], "rgb": [CAMERA]}}])
    options: dict[str, Any] = {"hdf5_cache_mode": None, "hdf5_use_swmr": False}
    read = SequenceDataset(str(path), [CAMERA], dataset_keys=["actions", "rewards", "dones"], **options)
    assert len(read) == sum(LENGTHS) and read.n_demos == 3
    row = 0
    for one in episodes():
        for step in range(one.length):
            item = read[row]
            np.testing.assert_array_equal(item["actions"][0], one.action[step])
            assert item["rewards"][0] == one.reward[step]
            np.testing.assert_array_equal(item["obs"][CAMERA][0], one.image[step])
            np.testing.assert_array_equal(item["next_obs"][CAMERA][0], one.image[step + 1])
            row += 1
