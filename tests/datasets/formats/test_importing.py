"""``moto data import``: from files of another format to a dataset that is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from imports import ID, LENGTHS, bring, nothing_is_left, vectors
from layouts import (
    FPS,
    d4rl,
    example,
    frames,
    rlds_episode,
    robomimic,
    rows,
    tfrecord,
)  # fmt: skip

from moto_pl.cli import main
from moto_pl.datasets.formats import importing
from moto_pl.datasets.minari_io import open_dataset
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import ObservationConfig
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("root")


def test_the_same_episodes(tmp_path: Path) -> None:
    done = bring(robomimic(tmp_path / "lift.hdf5", LENGTHS))
    assert (done.format, done.episodes, done.resumed, done.left_out) == ("robomimic", 3, 0, 0)
    reader = open_dataset(ID)
    assert reader.own["cameras"] == {"image": "agentview_image"} and reader.check(64, 3) == LENGTHS
    for number, episode in enumerate(reader):
        written, shown = rows(LENGTHS[number], number), frames(LENGTHS[number] + 1, number)
        np.testing.assert_array_equal(episode.action, written["action"])
        np.testing.assert_array_equal(episode.reward, written["reward"])
        np.testing.assert_array_equal(episode.success, written["reward"] > 0)
        np.testing.assert_array_equal(episode.image, [resize(frame, 64) for frame in shown])
        assert episode.truncated and episode.info["source"] == f"lift.hdf5/demo_{number}"


def test_a_frame_of_the_right_size_is_kept_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "lift.hdf5"
    robomimic(path, [4])
    image = frames(5, shape=(64, 64))
    with h5py.File(path, "a") as file:
        for group, found in (("obs", image[:-1]), ("next_obs", image[1:])):
            del file[f"data/demo_0/{group}/agentview_image"]
            file[f"data/demo_0/{group}/agentview_image"] = found
    bring(path)
    np.testing.assert_array_equal(open_dataset(ID)[0].image, image)


def test_the_last_frame_stands_for_one_that_was_not_recorded(tmp_path: Path) -> None:
    bring(robomimic(tmp_path / "lift.hdf5", [4], after=False))
    episode = open_dataset(ID)[0]
    np.testing.assert_array_equal(episode.image[4], episode.image[3])
    np.testing.assert_array_equal(episode.reward, rows(4, 0)["reward"])


def test_processes_read_what_one_reads(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    bring(path)
    one = [episode.image for episode in open_dataset(ID)]
    bring(path, workers=2, overwrite=True)
    for left, right in zip(one, open_dataset(ID), strict=True):
        np.testing.assert_array_equal(left, right.image)


def test_it_goes_on_where_a_killed_one_stopped(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    bring(path, trim_start=1)
    whole = [episode.image for episode in open_dataset(ID)]
    read, numbers = importing.read_job, []

    def killed(job: importing.Job) -> Any:
        numbers.append(job.number)
        if len(numbers) == 3:
            raise KeyboardInterrupt
        return read(job)

    monkeypatch.setattr(importing, "read_job", killed)
    with pytest.raises(KeyboardInterrupt):
        bring(path, overwrite=True, trim_start=1)
    assert len(list(root.rglob("*.safetensors"))) == 2
    with pytest.raises(SettingError, match="half imported from another source or with other settings"):
        bring(path, overwrite=True)
    assert bring(path, overwrite=True, trim_start=1).resumed == 2
    assert numbers == [0, 1, 2, 2], "what was there was read again"
    assert not list(root.rglob("*.safetensors"))
    for left, right in zip(whole, open_dataset(ID), strict=True):
        np.testing.assert_array_equal(left, right.image)


def test_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    read, said = importing.read_job, []

    def second(job: importing.Job) -> Any:
        monkeypatch.setattr(importing, "read_job", read)
        with pytest.raises(SettingError, match="output: found .*another import is at work") as error:
            bring(path)
        said.append(error.value)
        return read(job)

    monkeypatch.setattr(importing, "read_job", second)
    assert bring(path).episodes == 3 and said


def test_cameras(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4], ("agentview_image", "wrist_image"))
    with pytest.raises(SettingError, match="--cameras: found 2 cameras .agentview_image, wrist_image. and none chosen"):
        bring(path)
    with pytest.raises(SettingError, match="--cameras: found 'wrist_imag', .*Did you mean wrist_image"):
        bring(path, cameras=["front=wrist_imag"])
    for words, said in (
        (["a b=wrist_image"], "Write NAME=wrist_image, such as front=top"),
        (["a=wrist_image", "a=agentview_image"], "a twice"),
        (["a=wrist_image", "b=wrist_image"], "wrist_image twice"),
        (["=wrist_image"], "Write NAME=wrist_image"),
    ):
        with pytest.raises(SettingError, match=f"--cameras: found .*{said}"):
            bring(path, cameras=words)
    bring(path, cameras=["wrist_image"])
    assert open_dataset(ID).own["cameras"] == {"image": "wrist_image"}
    np.testing.assert_array_equal(open_dataset(ID)[0].image[0], resize(frames(5, 10)[0], 64))
    bring(path, cameras=["wrist=wrist_image", "front=agentview_image"], overwrite=True)
    reader = open_dataset(ID)
    assert reader.own["cameras"] == {"wrist": "wrist_image", "front": "agentview_image"}
    assert set(reader.cameras) == {"wrist", "front"} and reader.image_shape == (64, 64, 6)
    for names in (("wrist", "front"), ("front", "wrist"), ("front",)):
        image = open_dataset(ID, wanted=ObservationConfig(names))[0].image
        for place, name in enumerate(names):
            shown = [resize(frame, 64) for frame in frames(5, 10 if name == "wrist" else 0)]
            np.testing.assert_array_equal(image[..., 3 * place : 3 * place + 3], shown)


@pytest.mark.parametrize("after", [True, False])
def test_vectors(after: bool, tmp_path: Path) -> None:
    """They are what was recorded, under their names, beside their own frames, whatever is left out or merged."""
    path = vectors(tmp_path / "lift.hdf5", after)
    bring(path, cameras=["wrist_image"], state=["qpos=robot0_eef_pos", "grip"], trim_start=1, fps=FPS / 2)
    reader = open_dataset(ID, wanted=ObservationConfig(state=("grip", "qpos")))
    assert reader.own["state"] == {"qpos": "robot0_eef_pos", "grip": "grip"}
    assert dict(reader.observation.state) == {"grip": 1, "qpos": 5}
    for number, episode in enumerate(reader):
        steps = LENGTHS[number]
        state = np.concatenate([rows(steps, number)["state"], np.ones((1, 5), np.float32)])
        grip = (np.arange(steps + 1) / 7).astype(np.float32)
        kept = [*range(1, steps, 2), steps]
        if not after:
            kept[-1] = steps - 1
        np.testing.assert_array_equal(episode.vector, np.c_[grip[kept], state[kept]])
    for words, said in (
        (["qpos=robot0_eef_po"], "'robot0_eef_po', which is not there. Did you mean robot0_eef_pos"),
        (["q=grip", "q=robot0_eef_pos"], "q twice"),
        (["image=grip"], "image, as a camera is called"),
        (["agentview_image"], "'agentview_image', which is not there"),
    ):
        with pytest.raises(SettingError, match=f"--state: found {said}"):
            bring(path, cameras=["wrist_image"], state=words, overwrite=True)


def recorded_actions(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [demo["actions"][()].astype(np.float32) for demo in file["data"].values()]


def test_actions_in_other_numbers(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are kept to the bit, in the Box that holds them; read, they are in [-1, 1]."""
    path, one = vectors(tmp_path / "lift.hdf5"), {"cameras": ["wrist_image"]}
    written = recorded_actions(path)
    low, high = np.concatenate(written).min(0), np.concatenate(written).max(0)
    for options, box in (
        ({}, (low, high)),
        ({"action_bounds": [-200, 200]}, ([-200.0] * 3, [200.0] * 3)),
        ({"action_bounds": [-180, -1, 0, 180, 1, 10]}, ([-180, -1, 0], [180, 1, 10])),
    ):
        done = bring(path, **one, **options, overwrite=True)
        reader = open_dataset(ID)
        space = json.loads((root / ID / "data/metadata.json").read_text())["action_space"]
        np.testing.assert_array_equal(json.loads(space)["low"], np.float32(box[0]))
        assert reader.scale == done.bounds == ActionScale.of(np.float32(box[0]), np.float32(box[1]))
        for number, own in enumerate(written):
            with h5py.File(root / ID / "data/main_data.hdf5") as file:
                np.testing.assert_array_equal(file[f"episode_{number}/actions"], own)
                assert "action_unit" not in file[f"episode_{number}"].attrs
            np.testing.assert_allclose(reader[number].action, reader.scale.to_policy(own), atol=1e-6)
    for numbers, said in (
        ([-1, 1], r"\[-1, 1\], and the action -?\d+.* at step \d+ of demo_0 .*Give bounds that hold all actions"),
        ([-1, 0, 1], "3 numbers. Give 2 .lowest, highest., or 6"),
        ([1, -1], "1 -1. Give finite numbers, each lowest below its highest"),
        ([float("nan"), 1], "nan 1"),
    ):
        with pytest.raises(SettingError, match=f"--action_bounds: found {said}"):
            bring(path, **one, action_bounds=numbers, overwrite=True)
    words = [
        "data",
        "import",
        str(path),
        "--cameras",
        "wrist_image",
        "--workers",
        "1",
        "--action-bounds",
        "-200",
        "200",
    ]
    assert main([*words, "--output", "test/command-v0"]) == 0
    said = "Actions: [-200, -200, -200] to [200, 200, 200]\n"
    assert said in capsys.readouterr().out
    bring(path, **one, state=["qpos=robot0_eef_pos", "grip"], overwrite=True, action_bounds=[-200, 200])
    assert main(["data", "info", ID]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "vectors │ grip [1], qpos [5]" in said and "-1 and 1 │ stand for [-200.00, -200" in said
    assert main(["data", "info", ID, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["vectors"] == {"qpos": 5, "grip": 1} and numbers["action_bounds"]["high"] == [200] * 3


def test_rate_and_trimming(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [11])
    written, shown = rows(11, 0), frames(12)
    bring(path, fps=FPS / 2, trim_start=1, trim_end=3)
    episode = open_dataset(ID)[0]
    # Steps 1 to 7: 1+2, 3+4, 5+6, and 7 alone.
    np.testing.assert_array_equal(episode.action, written["action"][[2, 4, 6, 7]])
    sums = np.add.reduceat(written["reward"][:8].astype(np.float64), [1, 3, 5, 7])
    np.testing.assert_array_equal(episode.reward, sums.astype(np.float32))
    np.testing.assert_array_equal(episode.image, [resize(shown[frame], 64) for frame in (1, 3, 5, 7, 8)])
    bring(path, fps=FPS / 2, merge_actions="mean", overwrite=True)
    np.testing.assert_allclose(open_dataset(ID)[0].action[0], written["action"][:2].mean(0), rtol=1e-6)
    for fps in (15, 40, 0, float("nan")):
        with pytest.raises(SettingError, match="--fps: found .*recorded at 20: use a whole part"):
            bring(path, fps=fps, overwrite=True)
    with pytest.raises(SettingError, match="trim_start: found 11 steps to leave out of the 11"):
        bring(path, trim_start=11, overwrite=True)
    with pytest.raises(SettingError, match="--fps: found 10.*does not say at which rate"):
        bring(d4rl(tmp_path / "a.hdf5", [4]), fps=10, overwrite=True)


def test_rewards(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    bring(path, reward="dones")
    assert [episode.reward.tolist() for episode in open_dataset(ID)][2] == [0, 0, 0, 1]
    bring(path, reward="success-at-end", overwrite=True)
    for episode in open_dataset(ID):
        assert episode.total_reward == 1 == episode.success_steps and episode.success_last
    bring(path, success_reward=0.5, overwrite=True)
    np.testing.assert_array_equal(open_dataset(ID)[1].success, rows(9, 1)["reward"] >= 0.5)
    with pytest.raises(SettingError, match="--reward: found 'done'. Give a column .rewards, dones., success-at-end"):
        bring(path, reward="done", overwrite=True)


@pytest.mark.parametrize(
    ("text", "rewards"),
    [
        ("episode,success\n0,1\n1,false\n2,True\n", [[0] * 5 + [1], [0] * 9, [0, 0, 0, 1]]),
        ("Episode, Reward\n2,0.5\n1,2\n\n0,-1\n", [[0] * 5 + [-1], [0] * 8 + [2], [0, 0, 0, 0.5]]),
        ("episode,step,reward\n0,2,1\n0,3,2\n1,0,5\n2,3,0.25\n", [[0, 0, 1, 2, 0, 0], [5] + [0] * 8, [0, 0, 0, 0.25]]),
    ],
)
def test_labels(text: str, rewards: list[list[float]], tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    bring(robomimic(tmp_path / "lift.hdf5", LENGTHS), reward=str(labels))
    assert [episode.reward.tolist() for episode in open_dataset(ID)] == rewards
    assert [episode.succeeded for episode in open_dataset(ID)] == [max(row) > 0 for row in rewards]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "which cannot be read"),
        ("", "a first line of ''"),
        ("a,b\n", "a first line of 'a,b'"),
        ("episode,success\n0,2\n", "'0,2' in line 2"),
        ("episode,reward\n0,nan\n", "'0,nan' in line 2"),
        ("episode,reward\n-1,0\n", "'-1,0' in line 2"),
        ("episode,reward\n0,1,2\n", "'0,1,2' in line 2"),
        ("episode,reward\n0,1\n0,1\n", "a second label in line 3"),
        ("episode,reward\n0,1\n1,1\n", "no line for episode 2"),
        ("episode,step,reward\n0,6,1\n1,0,1\n2,0,1\n", "step 6 of episode 0, which has 6"),
    ],
)
def test_labels_that_are_wrong(text: str | None, said: str, tmp_path: Path, root: Path) -> None:
    labels = tmp_path / "labels.csv"
    if text is not None:
        labels.write_text(text)
    with pytest.raises(SettingError, match=f"--reward: found .*labels.csv.*{said}"):
        bring(robomimic(tmp_path / "lift.hdf5", LENGTHS), reward=str(labels))
    assert nothing_is_left(root)


def test_no_reward_at_all(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["rewards"], demo["dones"]
    with pytest.raises(SettingError, match="--reward: found no reward in the source, and none chosen. Give --reward: "):
        bring(path)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_whole_episodes_of_a_file_that_was_cut_short(workers: int, tmp_path: Path, root: Path) -> None:
    records = [example(rlds_episode(length, seed)) for seed, length in enumerate(LENGTHS)]
    path = tfrecord(tmp_path / "a.tfrecord", records)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SettingError, match="source: found .*a.tfrecord, which cannot be read.*keep_whole_episodes"):
        bring(path, workers=workers)
    assert nothing_is_left(root)
    done = bring(path, keep_whole_episodes=True, workers=workers)
    assert (done.episodes, done.left_out) == (2, 1) and "a.tfrecord" in done.reason
    assert open_dataset(ID).check(64, 3) == LENGTHS[:2]


def test_a_second_file_that_was_cut_short(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "libero"
    folder.mkdir()
    robomimic(folder / "a.hdf5", [4])
    whole = robomimic(folder / "b.hdf5", [5])
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(SettingError, match="b.hdf5, which cannot be read"):
        bring(folder)
    assert nothing_is_left(root)


def test_a_folder_of_files_is_read_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "libero"
    folder.mkdir()
    for name, length in (("b", 5), ("a", 4)):
        robomimic(folder / f"{name}.hdf5", [length])
    (folder / "README.txt").write_text("x")
    assert bring(folder).episodes == 2
    assert open_dataset(ID).check(64, 3) == [4, 5]
    d4rl(folder / "c.hdf5", [4])
    with pytest.raises(SettingError, match="files of several formats .robomimic, d4rl."):
        bring(folder, overwrite=True)


def test_a_hub_id_without_the_package_or_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        SettingError, match="source: found somebody/arm, .*may be on the hub.*pip install huggingface_hub"
    ):
        bring("somebody/arm")

    def unreachable(*args: Any, **options: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=unreachable))
    with pytest.raises(
        SettingError, match="source: found somebody/arm, which could not be fetched .no route to host."
    ) as e:
        bring("somebody/arm")
    assert "\n" not in str(e.value)
    path = robomimic(tmp_path / "lift.hdf5", [4])
    fetched: list[Any] = []

    def reachable(name: str, **options: Any) -> str:
        fetched.append((name, options["repo_type"]))
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=reachable))
    assert bring("somebody/arm").episodes == 1 and fetched == [("somebody/arm", "dataset")]


def test_settings_of_another_format(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "lift.hdf5", [4])
    with pytest.raises(SettingError, match="counted_in_order: found a source in robomimic's format"):
        bring(path, counted_in_order=True)
    for options in ({"workers": 0}, {"image_size": 0}, {"trim_start": -1}, {"env": "moto_pl/Reach-v1"}):
        with pytest.raises(SettingError, match=next(iter(options))):
            bring(path, **options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = robomimic(tmp_path / "lift.hdf5", LENGTHS, ("a_image", "b_image"))
    words = ["--cameras", "front=b_image", "--reward", "success-at-end", "--fps", "10", "--image-size", "32"]
    assert main(["data", "import", str(path), *words, "--workers", "1"]) == 0
    assert "3 episodes of robomimic, LIBERO (HDF5)\nDataset: " in capsys.readouterr().out
    assert open_dataset("import/lift").check(32, 3) == [3, 5, 2]
    assert main(["data", "import", str(path), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("moto: dataset: found moto_pl/import/lift-v0, which is already there")
        and error.count("\n") == 1
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """Frames are read some at a time: an episode of 200 MB passes through far less."""
    import tracemalloc

    path = robomimic(tmp_path / "long.hdf5", [4])
    with h5py.File(path, "a") as file:
        del file["data/demo_0"]
        count = 700
        demo = file["data"].create_group("demo_0")
        demo["actions"], demo["rewards"] = np.zeros((count, 3)), np.zeros(count)
        big = demo.create_dataset("obs/image", (count, 300, 320, 3), np.uint8, chunks=(1, 300, 320, 3))
        for row in range(count):
            big[row] = row % 256
    tracemalloc.start()
    bring(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20 < count * 300 * 320 * 3
