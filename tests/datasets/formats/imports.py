"""Imports in this process, and a source with actions in other numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from layouts import robomimic

from moto_pl.datasets.formats import importing
from moto_pl.datasets.formats.importing import import_dataset

ID = "test/arm-v0"
LENGTHS = [6, 9, 4]


def bring(source: Path | str, **options: Any) -> importing.Imported:
    return import_dataset([str(source)], ID, **{"workers": 1, **options})


def nothing_is_left(root: Path) -> bool:
    return not list(root.rglob("*.hdf5")) and not list(root.rglob("*.safetensors")) and not list(root.rglob(".*"))


def vectors(path: Path, after: bool = True) -> Path:
    """A robomimic file whose actions are in other numbers, and which has a vector of one number beside the five."""
    robomimic(path, LENGTHS, ("agentview_image", "wrist_image"), after)
    with h5py.File(path, "a") as file:
        for number, demo in enumerate(file["data"].values()):
            demo["actions"][...] = demo["actions"][()] * [180, 0.001, 3] + [0, 0, 5]
            grip = np.arange(LENGTHS[number] + 1, dtype=np.float64) / 7
            demo["obs/grip"] = grip[:-1]
            if after:
                demo["next_obs/grip"] = grip[1:]
    return path
