"""A run that is killed and started again ends bit for bit where the unbroken one ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runs import OTHER_HASHES, assert_same_end, fault, final, fit


@pytest.fixture(scope="session")
def unbroken(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    done = fit(run, "--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "point"),
    [(13, "batch_end"), (20, "round_start"), (25, "first_batch"), (33, "batch_end")],
    ids=["offline", "switch", "just-collected", "online"],
)
def test_killed_run_ends_where_the_unbroken_one_ends(
    step: int, point: str, reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    killed = fit(tmp_path / "run", *data, *fault(step, point), env=OTHER_HASHES)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert final(tmp_path / "run")["global_step"] < 40
    resumed = fit(tmp_path / "run", *data)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert_same_end(unbroken, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("signal_name", "step"), [("SIGTERM", 15), ("SIGUSR1", 32)])
def test_signal_writes_a_checkpoint_in_the_middle_of_a_round(
    signal_name: str, step: int, reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    stopped = fit(tmp_path / "run", *data, *fault(step, "batch_end", signal_name), env=OTHER_HASHES)
    assert stopped.returncode == 128 + signal.Signals[signal_name], stopped.stderr
    assert final(tmp_path / "run")["global_step"] == step
    resumed = fit(tmp_path / "run", *data)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(unbroken, tmp_path / "run")


@pytest.mark.slow
def test_resume_refuses_other_model_settings_and_takes_another_schedule(
    reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    refused = fit(run, *data, "--model.init_args.world_model.deter", "48")
    assert refused.returncode == 2
    assert "world_model.deter: 32 -> 48" in refused.stderr
    longer = fit(run, *data, "--data.online_steps", "25")
    assert longer.returncode == 0, longer.stderr
    assert final(run)["global_step"] == 45
