"""Writing films that play everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moto_pl.files import temporary_path, whole


def write_film(path: Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int) -> None:
    """Writes an mp4 (H.264), whole.

    Args:
        path: where to; the directory is there.
        frames: uint8 [H, W, 3] each.
        size: W and H. An odd one is made even, by scaling.
        fps: frames per second.
    """
    import imageio_ffmpeg  # not above: it is 68 MB of ffmpeg, which a run without films can do without

    with whole(path):  # ffmpeg opens it by its name, which does not say that it is an mp4
        # Half the colour resolution (yuv420p) and the index in front: what browsers and phones can play.
        writer = imageio_ffmpeg.write_frames(
            str(temporary_path(path)),
            size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,
            output_params=["-crf", "20", "-movflags", "+faststart", "-f", "mp4"],
        )
        writer.send(None)
        try:
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()
