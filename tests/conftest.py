"""What all tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import warm

# Tests run two at a time: with more threads than cores they only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Byte code is kept whatever the shell says: else each process that a test starts compiles the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TESTS = Path(__file__).parent
#: The files that take longest, those with the longest tests first (see README.md beside this).
LONGEST = (
    *("benchmarks/test_gpu_script.py", "training/test_kitchen_configs.py", "test_own_robot.py", "test_notebooks.py"),
    *("distributed/test_elastic.py", "distributed/test_machines.py", "distributed/test_ddp.py"),
    *("resume/test_faults.py", "agents/test_learning.py", "agents/test_trainer_runs.py"),
    *("agents/test_trainer_arguments.py", "resume/test_audit.py"),
    *("datasets/kitchen/test_kitchen_arm.py", "training/test_camera_runs.py", "envs/test_metaworld.py"),
    *("parity/test_cuda_emulation.py", "datasets/kitchen/test_kitchen_demonstrations.py", "agents/test_capture.py"),
    *("campaigns/test_campaign.py", "training/test_configs.py", "deploy/test_export.py", "resume/test_resume.py"),
    *("ops/test_extension.py", "test_fuzz.py", "test_cli.py", "resume/test_signals.py", "resume/test_overlap.py"),
    *("distributed/test_ddp_agents.py", "resume/test_model_first.py", "training/test_observed_runs.py"),
    *("parity/test_rollouts.py", "analysis/test_commands.py", "rollout/test_background.py", "agents/test_moto.py"),
    *("test_threads.py", "callbacks/test_trackers.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest files: a process that comes to them last works on alone while the others have ended.

    The order within a file stays, because its tests share runs.
    """
    if gone := [name for name in LONGEST if not (TESTS / name).exists()]:
        raise pytest.UsageError(f"LONGEST in {__file__} names files that are not there: {', '.join(gone)}")
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves a variable for whose sake all later runs would start cold (warm.py)."""
    before = warm.loaded(os.environ)
    yield
    assert warm.loaded(os.environ) == before, "a variable is left behind: take it back, or name it in warm._OWN"


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
