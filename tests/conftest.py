"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch

# Tests run two at a time: with more threads than cores they only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reach_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scripted demonstrations of the reaching task."""
    from moto_pl.datasets.builders import build

    path = tmp_path_factory.mktemp("datasets") / "reach"
    build("reach", output=str(path), workers=1)
    return path


@pytest.fixture(scope="session")
def gl() -> str:
    """The OpenGL backend that answers here; without any, what needs one is skipped."""
    from moto_pl.envs.rendering import select_backend
    from moto_pl.errors import SettingError

    try:
        return select_backend()
    except SettingError as error:
        pytest.skip(f"no OpenGL: {error}")
