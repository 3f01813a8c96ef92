"""``moto data export``: what is written is read back, by this package and laid out as published."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from layouts import frames, psnr
from minari.data_collector import EpisodeBuffer

from moto_pl.cli import main
from moto_pl.datasets.formats.exporting import export_dataset
from moto_pl.datasets.formats.importing import import_dataset
from moto_pl.datasets.minari_io import offered, open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.own_actions import OwnActions
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode
from moto_pl.replay.store import EpisodeStore
from small_agents import make, save

PSNR = 36.0
"""Least, in dB, of the frames that are written as video and read back."""


def episode(seed: int, steps: int, size: int = 64, terminated: bool = False) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        image=frames(steps + 1, seed, (size, size)),
        action=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        reward=rng.standard_normal(steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=rng.random(steps) < 0.5,
        info={"seed": seed},
    )


EPISODES = [episode(0, 5), episode(1, 9, terminated=True), episode(2, 1), episode(3, 4)]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    env_kwargs = {"image_size": 64}
    write_dataset("test/a-v0", EPISODES, "moto_pl/Reach-v0", {"env_kwargs": env_kwargs})
    return "test/a-v0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that began with two episodes, and collected two."""
    store = EpisodeStore(tmp_path / "run" / "replay")
    for one in EPISODES:
        store.append(one)
    (tmp_path / "run/replay/dataset.json").write_text(json.dumps({"dataset": "x", "episodes": 2}))
    return tmp_path / "run"


def back(path: Path, **options: Any) -> list[Episode]:
    import_dataset([str(path)], "test/back-v0", workers=1, overwrite=True, **options)
    return list(open_dataset("test/back-v0"))


def assert_numbers(left: Episode, right: Episode) -> None:
    for name in ("action", "reward"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_robomimic(dataset: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.hdf5"
    assert export_dataset(dataset, path, format="robomimic").episodes == 4
    for one, other in zip(EPISODES, back(path), strict=True):
        assert_numbers(one, other)
        np.testing.assert_array_equal(one.image, other.image)
    with h5py.File(path) as file:
        data = file["data"]
        assert data.attrs["total"] == 19 and json.loads(data.attrs["env_args"])["env_name"] == "moto_pl/Reach-v0"
        assert [demo.attrs["num_samples"] for demo in data.values()] == [5, 9, 1, 4]
        np.testing.assert_array_equal(data["demo_1/next_obs/agentview_image"], EPISODES[1].image[1:])
        np.testing.assert_array_equal(data["demo_1/dones"], [0] * 8 + [1])
    assert [found.name for found in path.parent.iterdir()] == ["a.hdf5"]


@pytest.mark.parametrize("lossless", [True, False])
def test_lerobot(lossless: bool, dataset: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    path = tmp_path / "out"
    export_dataset(dataset, path, format="lerobot", lossless=lossless, fps=10, task="reach")
    for one, other in zip(EPISODES, back(path), strict=True):
        assert_numbers(one, other)
        np.testing.assert_array_equal(one.success, other.success)
        for left, right in zip(one.image[:-1], other.image[:-1], strict=True):
            assert psnr(left, right) >= (np.inf if lossless else PSNR)
        np.testing.assert_array_equal(other.image[-1], other.image[-2])  # which has no place in the format
    stats = json.loads((path / "meta/stats.json").read_text())
    action = np.concatenate([one.action for one in EPISODES])
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0), atol=1e-6)
    pixels = np.concatenate([one.image[:-1] for one in EPISODES]) / 255
    found = stats["observation.image"]
    np.testing.assert_allclose(np.ravel(found["mean"]), pixels.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(np.ravel(found["std"]), pixels.std((0, 1, 2)), atol=1e-9)
    np.testing.assert_array_equal(np.ravel(found["max"]), pixels.max((0, 1, 2)))
    np.testing.assert_array_equal(np.ravel(found["min"]), pixels.min((0, 1, 2)))


def test_files_of_lerobot_have_a_size(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    monkeypatch.setattr("moto_pl.datasets.formats.write_lerobot.DATA_MB", 0)
    monkeypatch.setattr("moto_pl.datasets.formats.write_lerobot.VIDEO_MB", 0)
    monkeypatch.setattr("moto_pl.datasets.formats.write_lerobot.FILES_PER_CHUNK", 3)
    path = tmp_path / "out"
    export_dataset(dataset, path, format="lerobot")
    names = [str(file.relative_to(path / "data")) for file in sorted(path.rglob("data/*/*.parquet"))]
    assert names == [f"chunk-000/file-00{n}.parquet" for n in range(3)] + ["chunk-001/file-000.parquet"]
    assert len(list(path.rglob("*.mp4"))) == 4
    for one, other in zip(EPISODES, back(path), strict=True):
        assert_numbers(one, other)
        assert all(psnr(left, right) > PSNR for left, right in zip(one.image[:-1], other.image[:-1], strict=True))


def test_minari(dataset: str) -> None:
    export_dataset(dataset, "test/b-v0", format="minari")
    for one, other in zip(EPISODES, open_dataset("test/b-v0"), strict=True):
        assert_numbers(one, other)
        np.testing.assert_array_equal(one.image, other.image)
        assert other.terminated == one.terminated
    assert open_dataset("test/b-v0").own["env_id"] == "moto_pl/Reach-v0"


def test_a_runs_own_episodes(run: Path, tmp_path: Path) -> None:
    export_dataset(str(run), "test/c-v0", format="minari")
    for one, other in zip(EPISODES[2:], open_dataset("test/c-v0"), strict=True):
        assert_numbers(one, other)
        np.testing.assert_array_equal(one.image, other.image)
    assert export_dataset(str(run), "test/d-v0", format="minari", demonstrations=True).episodes == 4
    (run / "replay/dataset.json").write_text(json.dumps({"dataset": "x", "episodes": 4}))
    with pytest.raises(
        SettingError, match="source: found .*run, in which no episode was collected yet.*--demonstrations"
    ):
        export_dataset(str(run), "test/e-v0", format="minari")
    (run / "replay/dataset.json").write_text(json.dumps({"dataset": "x"}))  # still being taken in
    with pytest.raises(SettingError, match="source: found .*dataset.json, which cannot be read"):
        export_dataset(str(run), "test/e-v0", format="minari")


def test_what_is_refused(dataset: str, run: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.hdf5"
    target.write_text("mine")
    for options, said in (
        ({}, "output: found .*already there"),
        ({"overwrite": True}, "output: found .*no robomimic dataset"),
        ({"lossless": True}, "--lossless: found it with --format robomimic"),
        ({"task": "x"}, "--task"),
        ({"fps": 5}, "--fps"),
        ({"fps": 0}, "fps: found 0"),
        ({"demonstrations": True}, "demonstrations: found it with the dataset"),
    ):
        with pytest.raises(SettingError, match=said):
            export_dataset(dataset, target, format="robomimic", **options)  # type: ignore[arg-type]
    assert target.read_text() == "mine"
    with pytest.raises(SettingError, match="dataset: found no dataset at"):
        export_dataset(str(tmp_path / "nothing"), tmp_path / "x.hdf5", format="robomimic")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(SettingError, match="no lerobot dataset"):
        export_dataset(dataset, folder, format="lerobot", overwrite=True)
    assert (folder / "mine").read_text() == "mine"


def test_an_error_leaves_nothing_behind(dataset: str, tmp_path: Path, root: Path) -> None:
    """A damaged episode ends it: what stood there stays, and nothing half-written."""
    path, out = root / dataset / "data/main_data.hdf5", tmp_path / "out" / "a.hdf5"
    export_dataset(dataset, out, format="robomimic")
    content = out.read_bytes()
    with h5py.File(path, "a") as file:
        file["episode_3/rewards"][1] = np.nan
    for format in ("robomimic", "lerobot"):
        if format == "lerobot":
            pytest.importorskip("pyarrow", reason="needs the extra lerobot")
            pytest.importorskip("av", reason="needs the extra lerobot")
        target = out if format == "robomimic" else out.parent / "folder"
        with pytest.raises(SettingError, match="the reward nan"):
            export_dataset(dataset, target, format=format, overwrite=True)  # type: ignore[arg-type]
    assert out.read_bytes() == content and [found.name for found in out.parent.iterdir()] == ["a.hdf5"]


SEEN = Observation(("front", "wrist"), {"qpos": 4, "grip": 1}, (0.0,) * 5, (1.0,) * 5)
BOUNDS = ActionScale.of(np.float32([-180, 0, -0.001]), np.float32([180, 7, 0.001]))


def rich(seed: int, steps: int) -> tuple[Episode, np.ndarray]:
    """An episode of two cameras and two vectors, and its actions in the robot's own numbers."""
    rng = np.random.default_rng(seed)
    low, high = np.array(BOUNDS.low, np.float32), np.array(BOUNDS.high, np.float32)
    own = (low + (high - low) * rng.random((steps, 3))).astype(np.float32).clip(low, high)
    image = np.concatenate([frames(steps + 1, seed + place, (64, 64)) for place in (0, 10)], -1)
    vector = rng.standard_normal((steps + 1, 5)).astype(np.float32)
    one = replace(episode(seed, steps), image=image, vector=vector, action=BOUNDS.to_policy(own).clip(-1, 1))
    return one, own


RICH = [rich(0, 5), rich(1, 3)]


@pytest.fixture
def robot(tmp_path: Path) -> str:
    own = iter([own for _, own in RICH])
    actions = OwnActions(BOUNDS, lambda episode: next(own))
    return str(write_dataset("test/rich-v0", [one for one, _ in RICH], observation=SEEN, actions=actions))


def assert_rich(target: str, last: bool) -> None:
    """All of it is there again; ``last``: the frames and vectors after the last step, too."""
    reader = open_dataset(target, wanted=SEEN.config)
    for number, (one, own) in enumerate(RICH):
        with h5py.File(reader.data_file) as file:
            np.testing.assert_array_equal(file[f"episode_{number}/actions"], own)
        again, kept = reader[number], slice(None) if last else slice(-1)
        np.testing.assert_array_equal(again.vector[kept], one.vector[kept])  # type: ignore[index]
        np.testing.assert_array_equal(again.image[kept], one.image[kept])
        np.testing.assert_array_equal(again.reward, one.reward)


@pytest.mark.parametrize("format", ["lerobot", "robomimic", "minari"])
def test_cameras_vectors_and_actions_of_a_robot(format: Any, robot: str, tmp_path: Path) -> None:
    """Each under its name, actions in the robot's numbers, to the bit, and back again."""
    if format == "lerobot":
        pytest.importorskip("pyarrow", reason="needs the extra lerobot")
        pytest.importorskip("av", reason="needs the extra lerobot")
    path = tmp_path / "out" / "a"
    export_dataset(robot, path, format=format, lossless=format == "lerobot")
    camera, vector = {
        "lerobot": ("observation.images.{}", "observation.{}"),
        "robomimic": ("{}_image", "{}"),
        "minari": ("{}", "{}"),
    }[format]
    cameras = [f"{name}={camera.format(name)}" for name in SEEN.cameras]
    state = [f"{name}={vector.format(name)}" for name in SEEN.state]
    bounds = [*BOUNDS.low, *BOUNDS.high]
    back(path, cameras=cameras, state=state, action_bounds=[] if format == "minari" else bounds)
    assert open_dataset("test/back-v0").scale == BOUNDS
    assert_rich("test/back-v0", last=format != "lerobot")
    if format == "lerobot":
        stats = json.loads((path / "meta/stats.json").read_text())
        assert len(stats["observation.qpos"]["mean"]) == 4 and len(stats["observation.images.wrist"]["mean"]) == 3


def test_videos_of_several_cameras(robot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has files of its own, also where a file is full; one vector alone is the state."""
    pytest.importorskip("pyarrow", reason="needs the extra lerobot")
    pytest.importorskip("av", reason="needs the extra lerobot")
    monkeypatch.setattr("moto_pl.datasets.formats.write_lerobot.VIDEO_MB", 0)
    one = Observation(("front", "wrist"), {"qpos": 5}, (0.0,) * 5, (1.0,) * 5)
    write_dataset("test/one-v0", [episode for episode, _ in RICH], observation=one)
    path = tmp_path / "out"
    export_dataset("test/one-v0", path, format="lerobot")
    for name in SEEN.cameras:
        assert len(list(path.glob(f"videos/observation.images.{name}/*/*.mp4"))) == 2
    back(path, cameras=[f"{n}=observation.images.{n}" for n in SEEN.cameras], state=["q=observation.state"])
    for number, again in enumerate(open_dataset("test/back-v0", wanted=ObservationConfig(SEEN.cameras, ("q",)))):
        written = RICH[number][0]
        np.testing.assert_array_equal(again.vector[:-1], written.vector[:-1])  # type: ignore[index]
        for camera in (slice(0, 3), slice(3, 6)):
            near = [psnr(again.image[2][..., camera], frame[..., camera]) for frame in written.image[:-1]]
            assert int(np.argmax(near)) == 2 and near[2] > PSNR


@pytest.mark.parametrize("said_by", ["the dataset", "the checkpoint", "nobody"])
def test_a_runs_cameras_vectors_and_actions(said_by: str, tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "run/replay")
    for one, _ in RICH:
        store.append(one)
    if said_by == "the dataset":
        facts = {"observed": asdict(SEEN), "action_scale": asdict(BOUNDS)}
        (tmp_path / "run/replay/dataset.json").write_text(json.dumps({"dataset": "x", "episodes": 0, **facts}))
    elif said_by == "the checkpoint":
        agent = make("BC", actions=3, observation=SEEN)
        agent.action_scale = BOUNDS
        save(agent, tmp_path / "run/checkpoints/last.ckpt")
    export_dataset(str(tmp_path / "run"), "test/c-v0", format="minari")
    if said_by == "nobody":
        assert offered("test/c-v0") == ObservationConfig(("camera0", "camera1"), ("state",))
        np.testing.assert_array_equal(open_dataset("test/c-v0")[0].action, RICH[0][0].action)
        return
    reader = open_dataset("test/c-v0", wanted=SEEN.config)
    assert reader.scale == BOUNDS
    for number, (one, own) in enumerate(RICH):
        np.testing.assert_allclose(reader.scale.to_environment(reader[number].action), own, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(reader[number].vector, one.vector)
        np.testing.assert_array_equal(reader[number].image, one.image)


def test_anothers_dataset_with_cameras_in_a_dictionary(tmp_path: Path) -> None:
    """All of it is written; paths become names."""
    shown = {name: frames(5, place, (64, 64)) for place, name in enumerate(("front", "wrist"))}
    box = {name: spaces.Box(0, 255, (64, 64, 3), np.uint8) for name in shown}
    qpos, action = np.arange(10, dtype=np.float32).reshape(5, 2), np.float32([[0, 9], [3, -9], [1, 1], [2, 2]])
    buffer = EpisodeBuffer(
        observations={"cameras": shown, "arm": {"qpos": qpos}}, actions=action, rewards=[0.0] * 4,
        terminations=[False] * 4, truncations=[False] * 3 + [True],
    )  # fmt: skip
    arm = spaces.Dict(qpos=spaces.Box(-99, 99, (2,), np.float32))
    space = {"observation_space": spaces.Dict(cameras=spaces.Dict(box), arm=arm)}
    space["action_space"] = spaces.Box(-9, 9, (2,), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's advice
        minari.create_dataset_from_buffers("test/own-v0", [buffer], jpeg_encoding=False, **space)
    export_dataset("test/own-v0", tmp_path / "a.hdf5", format="robomimic")
    with h5py.File(tmp_path / "a.hdf5") as file:
        demo = file["data/demo_0"]
        assert set(demo["obs"]) == {"cameras.front_image", "cameras.wrist_image", "arm.qpos"}
        np.testing.assert_array_equal(demo["actions"], action)
        np.testing.assert_array_equal(demo["next_obs/arm.qpos"], qpos[1:])
        np.testing.assert_array_equal(demo["obs/cameras.wrist_image"], shown["wrist"][:-1])
    export_dataset("test/own-v0", "test/again-v0", format="minari")
    again = open_dataset("test/again-v0", wanted=ObservationConfig(("cameras.wrist",), ("arm.qpos",)))
    np.testing.assert_array_equal(again[0].image, shown["wrist"])
    np.testing.assert_array_equal(again[0].vector, qpos)
    assert again.scale == ActionScale.within(9.0, 2)


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.hdf5"
    assert main(["data", "export", str(run), str(path), "--format", "robomimic"]) == 0
    assert capsys.readouterr().out == f"2 episodes\nDataset: {path}\n"
    assert main(["data", "export", str(run), str(path), "--format", "zarr"]) == 2
    assert "--format: found 'zarr'. Give lerobot or minari or robomimic." in capsys.readouterr().err
