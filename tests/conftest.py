"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest
import torch

# Tests run two at a time: with more threads than cores they only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Byte code is kept whatever the shell says: else each process that a test starts compiles the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TESTS = Path(__file__).parent
#: The files that take longest, longest first (see README.md beside this).
LONGEST = (
    *(
        "resume/test_faults.py",
        "distributed/test_ddp_agents.py",
        "agents/test_learning.py",
        "campaigns/test_campaign.py",
        "test_own_robot.py",
    ),
    *("distributed/test_ddp.py", "datasets/kitchen/test_kitchen_arm.py", "resume/test_resume.py"),
    *("resume/test_resume_agents.py", "resume/test_signals.py", "parity/test_cuda_emulation.py"),
    *("ops/test_extension.py", "datasets/kitchen/test_kitchen_demonstrations.py", "resume/test_model_first.py"),
    *("training/test_kitchen_configs.py", "parity/test_rollouts.py", "test_threads.py", "test_fuzz.py"),
    *(
        "analysis/test_commands.py",
        "agents/test_trainer_arguments.py",
        "rollout/test_background.py",
        "agents/test_moto.py",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest files: a process that comes to them last works on alone while the others have ended.

    The order within a file stays, because its tests share runs.
    """
    if gone := [name for name in LONGEST if not (TESTS / name).exists()]:
        raise pytest.UsageError(f"LONGEST in {__file__} names files that are not there: {', '.join(gone)}")
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
