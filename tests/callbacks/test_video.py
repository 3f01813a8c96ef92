"""Videos: what is written is what is read back, and what stands there is whole."""

from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from moto_pl.callbacks.video import side_by_side, write_video


def squares(count: int, height: int, width: int) -> np.ndarray:
    """A frame of its own colour each, uint8 [count, H, W, 3]."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(30, 220, count, dtype=np.uint8)[:, None, None]
    frames[..., 2] = np.linspace(220, 30, count, dtype=np.uint8)[:, None, None]
    return frames


def test_frames_come_back(tmp_path: Path) -> None:
    frames = squares(7, 16, 24)
    path = tmp_path / "new" / "video.mp4"
    write_video(path, frames, fps=10, scale=2)
    with imageio.get_reader(path) as reader:  # type: ignore[attr-defined]
        meta = reader.get_meta_data()
        read = np.stack([frame for frame in reader])  # it claims an endless length, so no list()
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 10
    assert read.shape == (7, 32, 48, 3)
    difference = read[:, 1::2, 1::2].astype(int) - frames
    assert np.abs(difference).mean() < 6  # compressed, in another colour space
    assert [path.name for path in path.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(("height", "width"), [(15, 16), (16, 15), (15, 17)])
def test_odd_sides_are_padded(tmp_path: Path, height: int, width: int) -> None:
    """H.264 takes even sides alone."""
    path = tmp_path / "video.mp4"
    write_video(path, squares(3, height, width), scale=1)
    with imageio.get_reader(path) as reader:  # type: ignore[attr-defined]
        read = np.stack([frame for frame in reader])  # it claims an endless length, so no list()
    assert read.shape == (3, height + height % 2, width + width % 2, 3)


def test_a_failure_leaves_the_old_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    write_video(path, squares(3, 16, 16))
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> Iterator[None]:
        yield
        raise OSError("No space left on device")

    monkeypatch.setattr("imageio_ffmpeg.write_frames", full)
    with pytest.raises(OSError, match="No space"):
        write_video(path, squares(5, 16, 16))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_side_by_side_holds_last_frames_and_leaves_gaps() -> None:
    long, short = squares(5, 8, 6), squares(2, 8, 4)
    joined = side_by_side([long, short], gap=3)
    assert joined.shape == (5, 8, 6 + 3 + 4, 3)
    assert np.array_equal(joined[:, :, :6], long)
    assert (joined[:, :, 6:9] == 255).all()
    assert np.array_equal(joined[:2, :, 9:], short)
    assert np.array_equal(joined[2:, :, 9:], short[-1:].repeat(3, 0))


def test_one_video_has_no_gap() -> None:
    video = squares(3, 4, 4)
    assert np.array_equal(side_by_side([video]), video)
