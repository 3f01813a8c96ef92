"""Runs that see larger images and several cameras: from the dataset to the policy, and on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from test_observed_runs import assert_normalised
from test_training import fit

import moto_pl
from moto_pl.cli import main
from moto_pl.datasets.builders import build, ensure
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.datasets.offered import find_cameras, one_size
from moto_pl.envs import make
from moto_pl.envs.observation import ObservationConfig
from moto_pl.envs.reach import ReachEnv
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore
from moto_pl.training.ingest import MARKER
from runs import assert_killed_ends_as_unbroken, small

BOTH = ("wrist", "image")
WIDE = "misbehaving:moto_pl_test/Cameras-v0"
CAMERAS = ("--data.observation.cameras", "[wrist, image]")
STATE = ("--data.observation.state", "[hand]")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras and a vector; in the dataset they stand in another order than runs here ask for."""
    path = tmp_path_factory.mktemp("datasets") / "reach"
    return build("reach", output=str(path), episodes=4, observe=["image", "wrist", "hand"]).path


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "larger"
    return build("reach", output=str(path), episodes=2, image_size=96).path


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line, which says what is wrong."""
    return capsys.readouterr().err.splitlines()[-1]


# Datasets.


def test_a_dataset_holds_each_camera_under_its_name(dataset: Path) -> None:
    reader = open_dataset(dataset, wanted=ObservationConfig(BOTH, ("hand",)))
    episode = reader[1]
    assert reader.image_shape == (64, 64, 6) and reader.cameras == {"wrist": "wrist", "image": "image"}
    with h5py.File(dataset / "data/main_data.hdf5") as file:
        stored = {name: file[f"episode_1/observations/{name}"][:] for name in BOTH}
    assert stored["image"].shape == episode.image.shape[:3] + (3,) and not np.array_equal(*stored.values())
    assert np.array_equal(episode.image[..., :3], stored["wrist"])
    assert np.array_equal(episode.image[..., 3:], stored["image"])
    # As the environment draws them, at each step.
    env = ReachEnv(observe=("image", "wrist"))
    seen = [env.reset(seed=int(episode.info["seed"]))[0], *(env.step(action)[0] for action in episode.action)]
    for name in BOTH:
        assert np.array_equal(stored[name], np.stack([now[name] for now in seen])), name


def test_one_camera_of_several_is_what_it_would_be_alone(dataset: Path, reach_dataset: Path) -> None:
    alone, plain = open_dataset(dataset, wanted=ObservationConfig()), open_dataset(reach_dataset)
    assert np.array_equal(alone[1].image, plain[1].image) and np.array_equal(alone[1].action, plain[1].action)
    wrist = open_dataset(dataset, wanted=ObservationConfig(("wrist",)))[0]
    everything = open_dataset(dataset)[0]  # what there is: to look at
    assert everything.image.shape[-1] == 6 and np.array_equal(everything.image[..., 3:], wrist.image)


def test_what_a_dataset_does_not_have(dataset: Path) -> None:
    with pytest.raises(SettingError, match=r"data\.observation\.cameras: found 'top'. Use one of .*: image, wrist"):
        open_dataset(dataset, wanted=ObservationConfig(("image", "top")))
    with pytest.raises(SettingError, match=r"observe: found .* in .*reach.*already there"):
        ensure("reach", output=str(dataset), observe=["image", "top"])
    assert ensure("reach", output=str(dataset), observe=["wrist"]) == dataset  # more than is asked for does no harm


def test_cameras_of_several_sizes_and_lengths(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    with h5py.File(copy / "data/main_data.hdf5", "a") as file:
        frames = file["episode_2/observations/wrist"][:-1]
        del file["episode_2/observations/wrist"]
        file["episode_2/observations/wrist"] = frames
    reader = open_dataset(copy, wanted=ObservationConfig(BOTH))
    reader[1]
    with pytest.raises(SettingError, match=r"episode 2"):
        reader[2]
    small, large = (spaces.Box(0, 255, (size, size, 3), np.uint8) for size in (32, 64))
    space = spaces.Dict({"wrist": small, "front": large})
    for own in (False, True):
        cameras, sizes = find_cameras("x", space, ObservationConfig(("wrist", "front")), None, own)
        assert list(cameras) == ["wrist", "front"] and one_size("x", sizes, 96) == (96, 96)
        with pytest.raises(SettingError, match=r"several sizes \(wrist of 32x32, front of 64x64\)"):
            one_size("x", sizes, None)
    found = find_cameras("x", space, ObservationConfig(("wrist",)), None, False)
    assert found == ({"wrist": "wrist"}, {"wrist": (32, 32)})


def test_a_dataset_of_two_cameras_is_looked_at(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", str(dataset)]) == 0
    assert "64 x 64 x 3, image, wrist" in capsys.readouterr().out
    assert main(["data", "view", str(dataset), "--output_dir", str(tmp_path), "--episodes", "1"]) == 0
    film = next(tmp_path.glob("*.mp4"))
    meta = next(imageio_ffmpeg.read_frames(str(film)))
    assert meta["size"][0] == 2 * 256  # cameras side by side


def test_a_dataset_of_two_cameras_is_written_in_others_formats(dataset: Path, tmp_path: Path) -> None:
    wanted = open_dataset(dataset, wanted=ObservationConfig(("image", "wrist")))[0]
    assert main(["data", "export", str(dataset), str(tmp_path / "a.hdf5"), "--format", "robomimic"]) == 0
    with h5py.File(tmp_path / "a.hdf5") as file:
        obs, after = file["data/demo_0/obs"], file["data/demo_0/next_obs"]
        assert sorted(obs) == sorted(after) == ["hand", "image_image", "wrist_image"]
        assert np.array_equal(obs["wrist_image"][:], wanted.image[:-1, ..., 3:])
        assert np.array_equal(after["image_image"][:], wanted.image[1:, ..., :3])
    assert main(["data", "export", str(dataset), str(tmp_path / "b"), "--format", "minari"]) == 0
    again = open_dataset(tmp_path / "b", wanted=ObservationConfig(("image", "wrist")))[0]
    assert np.array_equal(again.image, wanted.image)


# Runs.


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another's Minari dataset of another's environment, whose cameras are of two sizes."""
    env = make(WIDE, what="wide")
    observations, actions = [env.reset(seed=1)[0]], np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    observations += [env.step(action)[0] for action in actions]
    flags = np.array([False, False, False, True])
    buffer = EpisodeBuffer(
        observations={name: np.stack([one[name] for one in observations]) for name in observations[0]},
        actions=actions, rewards=flags.astype(float), terminations=[False] * 4, truncations=list(flags),
        infos={"success": np.append(False, flags)},
    )  # fmt: skip
    root = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        space = {"observation_space": env.observation_space, "action_space": env.action_space}
        minari.create_dataset_from_buffers("test/wide-v0", [buffer, buffer], jpeg_encoding=False, **space)
    return root / "test/wide-v0"


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_others_frames_are_resized_on_the_way_in(
    foreign: Path, larger: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset's and the environment's alike, and the run says each once."""
    wanted = ObservationConfig(("odd", "image"))
    reader = open_dataset(foreign, wanted=wanted, image_size=64)
    assert reader.resized == "'odd' of 48x80" and reader.image_shape == (64, 64, 6) and reader.check(64) == [4, 4]
    with h5py.File(foreign / "data/main_data.hdf5") as file:
        stored = file["episode_0/observations/odd"][:]
    assert stored.shape == (5, 48, 80, 3)
    assert np.array_equal(reader[0].image[..., :3], [resize(frame, 64) for frame in stored])
    with pytest.raises(SettingError, match="images of several sizes .odd of 48x80, image of 64x64"):
        open_dataset(foreign, wanted=wanted)
    # What our own environments draw is drawn in the size that is wanted.
    with pytest.raises(SettingError, match="images of 96x96, not 64x64"):
        open_dataset(larger, image_size=64).check(64)
    words = ("--data.env", WIDE, "--data.env_options", "{what: wide}", "--data.observation.cameras", "[odd, image]")
    online = ("--data.online_steps", "2", "--data.updates_per_episode", "2", "--data.num_envs", "1")
    args = fit(tmp_path / "run", foreign, "--model", "moto_pl.agents.BC", *small("BC"), *words, *online)
    with caplog.at_level("INFO"):
        assert main(args) == 0, capsys.readouterr().err
    said = [message for message in caplog.messages if "resized to" in message]
    assert said == ["test/wide-v0: 'odd' of 48x80, resized to 64x64", f"{WIDE}: 'odd' of 48x80, resized to 64x64"]
    store = EpisodeStore(tmp_path / "run/replay")
    env = make(WIDE, what="wide")
    first = env.reset(seed=int(store[2].info["seed"]))[0]
    collected = store[2].image[0]
    assert np.array_equal(collected[..., :3], resize(first["odd"], 64))
    assert np.array_equal(collected[..., 3:], first["image"])
    capsys.readouterr()
    film = str(tmp_path / "p.mp4")
    assert main(["play", str(tmp_path / "run/checkpoints/last.ckpt"), "--episodes", "1", "--out", film]) == 2
    trusted = ["--trust", "misbehaving"]
    assert main(["play", str(tmp_path / "run/checkpoints/last.ckpt"), "--episodes", "1", "--out", film, *trusted]) == 0


@pytest.mark.parametrize("agent", ["MOTO", "LOMPO", "SAC"])
def test_a_run_sees_two_cameras(agent: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    videos = ("--video_episodes", "1")
    online = ("--data.online_steps", "2", "--data.updates_per_episode", "2", "--data.num_envs", "1")
    args = fit(run, dataset, "--model", f"moto_pl.agents.{agent}", *small(agent), *CAMERAS, *STATE, *online, *videos)
    assert main(args) == 0, capsys.readouterr().err
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["agent"]["observation"]["cameras"] == list(BOTH)
    convs = [
        value for name, value in saved["state_dict"].items() if name.endswith("convs.0.weight") and "coder" in name
    ]
    assert convs and any(conv.shape[1] % 6 == 0 for conv in convs)
    store = EpisodeStore(run / "replay")
    assert store[0].image_rows.shape[1:] == (6, 64, 64) and store[4].image_rows.shape[1:] == (6, 64, 64)
    marked = json.loads((run / "replay" / MARKER).read_text())
    assert marked["observation"] == {"cameras": list(BOTH), "state": ["hand"]}
    assert_normalised(saved, marked["observed"])
    # Collected: the wrist first, as asked for; the hand is in its middle, and the same environment draws it.
    env = ReachEnv(observe=("image", "wrist"))
    first = env.reset(seed=int(store[4].info["seed"]))[0]
    assert np.array_equal(store[4].image[0], np.concatenate([first["wrist"], first["image"]], -1))
    film = sorted((run / "videos").glob("eval_*.mp4"))[-1]
    assert next(imageio_ffmpeg.read_frames(str(film)))["size"] == (2 * 64 * 4, 64 * 4)
    assert main(["data", "export", str(run), str(tmp_path / "run.hdf5"), "--format", "robomimic"]) == 0
    with h5py.File(tmp_path / "run.hdf5") as file:
        assert np.array_equal(file["data/demo_0/obs/wrist_image"][0], first["wrist"])
    assert main(["test", *args[1:], "--data.test_episodes", "1"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["play", str(run / "checkpoints/last.ckpt"), "--episodes", "1", "--out", str(tmp_path / "p.mp4")]) == 0
    assert next(imageio_ffmpeg.read_frames(str(tmp_path / "p.mp4")))["size"] == (2 * 64 * 4, 64 * 4)
    policy = moto_pl.load_policy(run / "checkpoints/last.ckpt")
    assert list(policy.observes) == ["wrist", "image", "hand"]
    assert policy.act({**first, "hand": env.vector("hand").astype(np.float32)}).shape == (2,)
    swapped = [*args]
    swapped[swapped.index("[wrist, image]")] = "[image, wrist]"
    assert main(swapped) == 2
    seen = "the checkpoint's agent sees wrist, image, hand [2]"
    assert f"data.observation: found image, wrist, hand, where {seen}" in error_of(capsys)
    assert main([word for word in args if word not in STATE]) == 2
    assert f"data.observation: found wrist, image, where {seen}" in error_of(capsys)


def test_what_environment_and_dataset_do_not_share_is_said_in_a_line(
    dataset: Path, reach_dataset: Path, larger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--data.image_size", "96")
    cases: tuple[tuple[Path, tuple[str, ...], str], ...] = (
        (dataset, ("--data.observation.cameras", "[image, top]"), "data.observation.cameras: found 'top'. Use one of"),
        (reach_dataset, CAMERAS, "data.observation.cameras: found 'wrist'. Use one of"),
        (dataset, ("--data.image_size", "80"), "data.image_size: found 80. Give one of 64, 96, 128."),
        (dataset, size, "images of 64x64, not 96x96. Build or render the dataset at 96x96, or set data.image_size"),
        (larger, (), "images of 96x96, not 64x64. Build or render the dataset at 64x64, or set data.image_size"),
        (
            larger,
            (*size, "--data.env_options", "{image_size: 64}"),
            "data.env: found moto_pl/Reach-v0, whose observation 'image' is uint8 (64, 64, 3), where uint8 (96, 96, 3)",
        ),
        (dataset, ("--data.action_repeat", "0"), "data.action_repeat: found 0"),
        (dataset, ("--data.action_repeat", "2"), "data.action_repeat: found 2, where"),
    )
    for number, (data, words, said) in enumerate(cases):
        run = tmp_path / str(number)
        assert main(fit(run, data, *words)) == 2, words
        assert said in error_of(capsys), words
        # Before the dataset is taken in.
        assert not list(run.glob("checkpoints/*")) and not (run / "replay").exists()
    assert main(fit(tmp_path / "other", dataset, "--data.env_options", "{observe: [image]}", *CAMERAS)) == 2
    assert "data.env: found moto_pl/Reach-v0, which observes 'image', and no 'wrist'" in error_of(capsys)


@pytest.mark.parametrize(("agent", "size"), [("MOTO", 128), ("BC", 128), ("COMBO", 96)])
def test_larger_images_from_end_to_end(
    agent: str, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset is built with what the run asks for."""
    run, options = tmp_path / "run", f"{{episodes: 2, output: {tmp_path}/data}}"
    build_it = ("--data.dataset", "reach", "--data.build_missing", "true", "--data.build_options", options)
    model = ("--model", f"moto_pl.agents.{agent}", *small(agent))
    online = ("--data.online_steps", "2", "--data.updates_per_episode", "2", "--data.num_envs", "1")
    videos = ("--video_episodes", "1")
    args = fit(run, tmp_path, *model, *online, *videos, "--data.image_size", str(size), *build_it)
    assert main(args) == 0, capsys.readouterr().err
    store, last = EpisodeStore(run / "replay"), run / "checkpoints/last.ckpt"
    assert {store[i].image_rows.shape[1:] for i in range(3)} == {(3, size, size)}
    film = sorted((run / "videos").glob("eval_*.mp4"))[-1]
    assert next(imageio_ffmpeg.read_frames(str(film)))["size"] == (4 * size, 4 * size)
    policy = moto_pl.load_policy(last)
    assert policy.observes["image"].shape == (size, size, 3)
    assert policy.act(ReachEnv(image_size=size).reset(seed=0)[0]).shape == (2,)
    assert main(["test", *args[1:], "--data.test_episodes", "1"]) == 0, capsys.readouterr().err
    assert main(["play", str(last), "--episodes", "1"]) == 0
    capsys.readouterr()
    again = [word if word != str(size) else "64" for word in args]
    assert main(again) == 2
    assert f"data.image_size: found 64, where the checkpoint's agent sees {size}x{size}" in error_of(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["MOTO", "BC"])
def test_a_killed_run_with_cameras_and_vectors_ends_where_the_unbroken_one_ends(
    agent: str, dataset: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false", *CAMERAS, *STATE)
    assert_killed_ends_as_unbroken(tmp_path, *data, agent=agent, episodes=8)


# Repeated actions.


def test_a_run_repeats_its_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build("reach", output=str(tmp_path / "data"), episodes=2, action_repeat=4, reward="dense").path
    reader = open_dataset(path)
    assert reader.own["action_repeat"] == 4 and reader[0].length == 8  # 30 steps: the last action is held for two
    run = tmp_path / "run"
    online = ("--data.online_steps", "2", "--data.updates_per_episode", "2", "--data.num_envs", "1")
    options = ("--data.env_options", "{reward: dense}", "--data.max_episode_steps", "10")
    args = fit(run, path, *online, *options, "--data.action_repeat", "4")
    with pytest.warns(UserWarning, match="did not end an episode within 10 steps"):
        assert main(args) == 0, capsys.readouterr().err
    episode = EpisodeStore(run / "replay")[2]
    assert episode.length == 3 and episode.truncated
    env = ReachEnv(reward="dense")
    env.reset(seed=int(episode.info["seed"]))
    rewards = [
        [env.step(action)[1] for _ in range(held)] for action, held in zip(episode.action, (4, 4, 2), strict=True)
    ]
    np.testing.assert_allclose(episode.reward, [sum(held) for held in rewards], rtol=1e-6)
    assert json.loads((run / "replay" / MARKER).read_text())["action_repeat"] == 4
    capsys.readouterr()
    assert main(fit(tmp_path / "other", path, "--data.env_options", "{reward: dense}")) == 2
    found: Any = error_of(capsys)
    assert "data.action_repeat: found 1, where" in found and "was recorded with 4" in found
    assert main(["play", str(run / "checkpoints/last.ckpt"), "--episodes", "1"]) == 0
    assert ", 3 steps" in capsys.readouterr().out


def test_the_command_builds_what_runs_ask_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--episodes", "1", "--workers", "1", "--output")
    assert main(["data", "build", "reach", "--action_repeat", "4", *few, str(tmp_path / "a")]) == 0
    assert open_dataset(tmp_path / "a")[0].length == 8, capsys.readouterr().err
    words = ["data", "build", "reach", *few, str(tmp_path / "b"), "--image_size", "96", "--observe", "wrist", "image"]
    assert main(words) == 0, capsys.readouterr().err
    assert open_dataset(tmp_path / "b").image_shape == (96, 96, 6)
    plain = open_dataset(tmp_path / "a").own["env_kwargs"]
    assert plain["observe"] == ["image"]
