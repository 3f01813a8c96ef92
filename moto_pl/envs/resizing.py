"""Frames of any size, brought to the size that networks are made for."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame uint8 [H, W, 3] at size x size, by a triangle filter (Pillow's bilinear, which averages on the way down).

    One that has the size already stays as it is, to the bit. Datasets and environments are resized alike by it.
    """
    if frame.shape == (size, size, 3):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))
