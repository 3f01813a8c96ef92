import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from moto_pl.cli import run
from moto_pl.datasets.builders import build
from moto_pl.datasets.info import PAPER_RETURNS, info, list_table
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.view import view
from moto_pl.envs import PAPER_TASKS
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def episode(rewards: list[float], actions: list[list[float]], size: int = 32, shade: int = 100) -> Episode:
    reward = np.array(rewards, np.float32)
    return Episode(
        image=np.full((len(rewards) + 1, size, size, 3), shade, np.uint8),
        action=np.array(actions, np.float32),
        reward=reward,
        terminated=False,
        truncated=True,
        success=reward > 0,
        extras={},
        info={},
    )


EPISODES = [
    episode([0, 1, 1], [[0.5, -1], [0, 0.25], [0, 0]]),
    episode([0, 0], [[-0.75, 0], [0, 0]], shade=200),
]


def printed(target: str) -> tuple[dict[str, object], str]:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))
    numbers = info(target, console)
    return numbers, console.export_text()


def moto(*arguments: str) -> int:
    return run(["data", *arguments])


def test_numbers_by_hand(root: Path) -> None:
    path = write_dataset("test/hand-v0", EPISODES, metadata={"render_quality": "full"})
    numbers, text = printed("test/hand-v0")
    on_disk = sum(file.stat().st_size for file in (path / "data").iterdir())
    assert numbers == {
        "id": "test/hand-v0",
        "path": str(root / "test/hand-v0"),
        "trajectories": 2,
        "transitions": 5,
        "mean_return": 1.0,
        "min_return": 0.0,
        "max_return": 2.0,
        "success_rate": 0.5,
        "min_length": 2,
        "mean_length": 2.5,
        "max_length": 3,
        "action_size": 2,
        "action_min": [-0.75, -1.0],
        "action_max": [0.5, 0.25],
        "action_bounds": None,
        "vectors": {},
        "image_size": (32, 32),
        "image_key": "image",
        "bytes": on_disk,
        "metadata": {"render_quality": "full"},
    }
    for shown in ("mean 1.00", "0.500 of trajectories", "2 to 3", "32 x 32", "lowest [-0.75, -1.00]", "full"):
        assert shown in text


def test_metaworld_beside_the_paper() -> None:
    write_dataset("moto_pl/metaworld/door-open-v0", EPISODES, metadata={"retries": 4})
    write_dataset("moto_pl/metaworld/sweep-v0", EPISODES[:1])
    numbers, text = printed("metaworld")
    assert set(numbers) == {"door-open", "sweep"}
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["door-open"] == "door-open 2 5 1.0 / 15.2 0.500 / 1.000 4".split()
    assert rows["hammer"] == "hammer - - - / 63.3 - / 1.000 -".split()
    assert rows["sweep"] == "sweep 1 3 2.0 / - 1.000 / - -".split()
    assert "Not built: assembly" in text


def test_the_papers_tasks() -> None:
    assert tuple(PAPER_RETURNS) == PAPER_TASKS


@pytest.mark.parametrize("steps", [float("inf"), "many", None])
def test_a_dataset_that_does_not_say_its_steps_is_listed(steps: object, root: Path) -> None:
    path = write_dataset("test/good-v0", EPISODES) / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_steps": steps}))
    assert list(list_table().columns[2].cells) == ["0"]


def test_list(root: Path) -> None:
    write_dataset("test/good-v0", EPISODES)
    bad = write_dataset("test/bad-v0", EPISODES)
    (bad / "data" / "main_data.hdf5").write_bytes(b"")
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(list_table())
    good_row, bad_row = (
        next(line for line in console.export_text(clear=False).splitlines() if name in line)
        for name in ("test/good-v0", "test/bad-v0")
    )
    assert "32x32" in good_row
    assert "cannot be used" in bad_row


def test_view_files(tmp_path: Path) -> None:
    write_dataset("test/hand-v0", EPISODES)
    sheet, film = view("test/hand-v0", tmp_path / "out", columns=3)
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    for shade in (100, 200):  # both episodes are on it, three frames of 128 x 128 each
        assert (pixels == shade).all(axis=2).sum() == pytest.approx(3 * 128 * 128, rel=0.01)
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 4  # as many as the longer episode
    reader = imageio_ffmpeg.read_frames(str(film))
    properties = next(reader)
    assert properties["codec"] == "h264" and properties["pix_fmt"].startswith("yuv420p")
    width, height = properties["size"]
    assert (width, height) == (512, 272)
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    assert len(frames) == 4
    assert abs(int(frames[-1][200, 100].mean()) - 100) < 8
    assert abs(int(frames[-1][200, 400].mean()) - 200) < 8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [film.name, sheet.name]


def test_view_of_odd_sizes(tmp_path: Path) -> None:
    write_dataset("test/odd-v0", [episode([1.0], [[0.0]], size=301)])
    sheet, film = view("test/odd-v0", tmp_path)
    assert sheet.stat().st_size > 0
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 2


@pytest.mark.parametrize(("option", "value"), [("episodes", 0), ("columns", 1), ("fps", 0)])
def test_view_refuses_bad_numbers(option: str, value: int, tmp_path: Path) -> None:
    write_dataset("test/hand-v0", EPISODES)
    with pytest.raises(SettingError, match=f"{option}: found {value}"):
        view("test/hand-v0", tmp_path, **{option: value})


def test_verbs(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moto("build", "reach", "--episodes", "2", "--steps", "20", "--image-size", "32") == 0
    out = capsys.readouterr().out
    assert "2 episodes, all successful, 40 transitions" in out and "Retries: 0" in out
    assert str(root / "moto_pl" / "reach-v0") in out
    assert moto("info", "reach", "--json") == 0
    assert json.loads(capsys.readouterr().out)["transitions"] == 40
    assert moto("view", "reach", "--output-dir", str(tmp_path)) == 0
    assert str(tmp_path / "moto_pl_reach-v0.mp4") in capsys.readouterr().out
    assert moto("list") == 0
    assert "moto_pl/reach-v0" in capsys.readouterr().out


def test_verbs_pass_metaworld_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match="camera"):
        moto("build", "reach", "--camera", "corner2")
    with pytest.raises(SettingError, match="already there"):
        build("reach", episodes=1, image_size=32)
        moto("build", "reach")
