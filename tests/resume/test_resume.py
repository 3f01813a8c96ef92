"""A run that is killed and started again ends bit for bit where the unbroken one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from moto_pl.data.builders import build

ROOT = Path(__file__).parents[2]


def fit(run: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """``moto fit`` of the debug configuration in a process of its own, with one environment inside it."""
    command = [sys.executable, "-m", "moto_pl.cli", "fit", "--config", str(ROOT / "configs/debug.yaml")]
    command += ["--trainer.default_root_dir", str(run), "--data.env_workers", "0", "--data.eval_episodes", "1"]
    command += ["--video_episodes", "0", "--evaluate_untrained", "false"]
    command += ["--model.init_args.optim.final_lr", "0.1", *args]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


def fault(step: int, point: str = "batch_end", signal_name: str = "SIGKILL") -> tuple[str, ...]:
    """Arguments that make a run send itself a signal."""
    return (
        "--trainer.callbacks+=faults.FaultAt",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.point={point}",
        f"--trainer.callbacks.signal_name={signal_name}",
    )


def final(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same_end(left: Path, right: Path) -> None:
    """Weights, optimizer state and replay are the same to the bit."""
    a, b = final(left), final(right)
    assert a["global_step"] == b["global_step"] == 40
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name in a["state_dict"]:
        assert torch.equal(a["state_dict"][name], b["state_dict"][name]), name
    states = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 0
    for index in states[0]:
        for name, value in states[0][index].items():
            assert torch.equal(value, states[1][index][name]), (index, name)
    files = sorted(path.name for path in (left / "replay").glob("*.safetensors"))
    assert len(files) == 14  # ten demonstrations and four collected episodes
    for name in files:
        assert (left / "replay" / name).read_bytes() == (right / "replay" / name).read_bytes(), name


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("datasets") / "reach"
    build("reach", output=str(path), workers=1)
    return path


@pytest.fixture(scope="session")
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    done = fit(run, "--data.dataset", str(dataset), "--data.build_missing", "false")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "point"),
    [(13, "batch_end"), (20, "round_start"), (25, "first_batch"), (33, "batch_end")],
    ids=["offline", "switch", "just-collected", "online"],
)
def test_killed_run_ends_where_the_unbroken_one_ends(
    step: int, point: str, dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false")
    killed = fit(tmp_path / "run", *data, *fault(step, point))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert final(tmp_path / "run")["global_step"] < 40
    resumed = fit(tmp_path / "run", *data)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert_same_end(unbroken, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("signal_name", "step"), [("SIGTERM", 12), ("SIGUSR1", 32)])
def test_signal_writes_a_checkpoint_in_the_middle_of_a_round(
    signal_name: str, step: int, dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false")
    stopped = fit(tmp_path / "run", *data, *fault(step, "batch_end", signal_name))
    assert stopped.returncode == 128 + signal.Signals[signal_name], stopped.stderr
    assert final(tmp_path / "run")["global_step"] == step
    resumed = fit(tmp_path / "run", *data)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(unbroken, tmp_path / "run")


@pytest.mark.slow
def test_resume_refuses_other_model_settings_and_takes_another_schedule(
    dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    data = ("--data.dataset", str(dataset), "--data.build_missing", "false")
    refused = fit(run, *data, "--model.init_args.world_model.deter", "48")
    assert refused.returncode == 2
    assert "world_model.deter: 32 -> 48" in refused.stderr
    longer = fit(run, *data, "--data.online_steps", "25")
    assert longer.returncode == 0, longer.stderr
    assert final(run)["global_step"] == 45
