"""Writing videos that play everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moto_pl.datasets.film import write_film


def write_video(path: Path, frames: np.ndarray, fps: int = 20, scale: int = 4) -> None:
    """Writes an mp4 (H.264, yuv420p), whole under another name first.

    Args:
        path: where to.
        frames: uint8 [T, H, W, 3].
        fps: frames per second.
        scale: each pixel becomes ``scale`` x ``scale``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    enlarged = frames.repeat(scale, 1).repeat(scale, 2)
    height, width = enlarged.shape[1] % 2, enlarged.shape[2] % 2
    if height or width:  # H.264 wants even sides
        enlarged = np.pad(enlarged, ((0, 0), (0, height), (0, width), (0, 0)), mode="edge")
    write_film(path, enlarged, (enlarged.shape[2], enlarged.shape[1]), fps)


def side_by_side(videos: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Joins videos uint8 [T_i, H, W, 3] in a row with white gaps; the shorter ones hold their last frame."""
    length = max(len(video) for video in videos)
    padded = [np.concatenate((video, video[-1:].repeat(length - len(video), 0))) for video in videos]
    bar = np.full((length, padded[0].shape[1], gap, 3), 255, np.uint8)
    parts = [part for video in padded for part in (video, bar)]
    return np.concatenate(parts[:-1], 2)
