"""Signals that come while episodes are rolled: obeyed before the next environment step, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moto_pl import signals
from runs import assert_same_end, environment, final, fit

EPISODE = 30  # steps of the reaching task


def faulty(run: Path, name: str, at: int, **options: int) -> tuple[str, ...]:
    """Arguments of a run whose environment sends the process a signal in its step ``at``."""
    settings = {"fault": name, "marker": str(run.with_suffix(".marker")), "at": at, **options}
    return "--data.env", "faulty_env:FaultyReach-v0", "--data.env_options", json.dumps(settings)


def data(dataset: Path) -> tuple[str, ...]:
    return "--data.dataset", str(dataset), "--data.build_missing", "false"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_an_endless_untrained_evaluation_ends(name: str, reach_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    env = faulty(run, name, 17, episode_steps=10**9)
    stopped = fit(run, *data(reach_dataset), *env, "--evaluate_untrained", "true", timeout=120)
    assert stopped.returncode == 128 + signal.Signals[name], stopped.stderr
    assert stopped.stderr.splitlines()[-1] == f"moto: ended by {name}" and "Traceback" not in stopped.stderr
    assert not (run / "checkpoints").exists() and not (run / "evaluations.jsonl").exists()


@pytest.fixture(scope="module")
def unbroken(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    done = fit(run, *data(reach_dataset))
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at", "saved"),
    [
        ("SIGTERM", 1 + EPISODE // 2, 10),  # the evaluation after step 20: that round is taken again
        ("SIGUSR1", 1 + EPISODE + EPISODE // 2, 20),  # collecting for the first online round
        ("SIGINT", 1 + 2 * EPISODE + EPISODE // 2, 25),  # and for the second, whose beginning is saved on leaving
    ],
)
def test_a_half_episode_is_dropped_and_rolled_again(
    name: str, at: int, saved: int, reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = (*data(reach_dataset), *faulty(run, name, at), "--checkpoint_every", "3" if saved == 25 else "1")
    stopped = fit(run, *args)
    assert stopped.returncode == 128 + signal.Signals[name], stopped.stderr
    assert f"goes on from step {saved}" in stopped.stderr and "Traceback" not in stopped.stderr
    assert final(run)["global_step"] == saved
    resumed = fit(run, *args)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(unbroken, run)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1 + EPISODE // 2, 1 + EPISODE + EPISODE // 2], ids=["evaluating", "collecting"])
def test_a_signal_to_one_process_ends_both(at: int, reach_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.eval_episodes", "3")
    stopped = fit(run, *data(reach_dataset), *two, *faulty(run, "SIGTERM", at), timeout=300)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "Traceback" not in stopped.stderr and "goes on from step" in stopped.stderr


def test_a_note_is_obeyed_where_it_is_asked_for() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals.obeyed():
        handlers = signals.take_over(signals.later)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.noted() == signal.SIGUSR1
        with pytest.raises(signals.Stopped) as stopped:
            signals.check()
        assert stopped.value.code == 128 + signal.SIGUSR1
        signals.give_back(handlers)
    assert signals.noted() is None
    signals.check()
    assert signal.getsignal(signal.SIGINT) is before


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_builder_ends_with_its_workers_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    words = [*(sys.executable, "-m", "moto_pl.cli", "data", "build", "reach", "--episodes", "1000000")]
    words += ["--workers", "2", "--output", str(tmp_path / "endless-v0")]
    builder = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with builder:
        assert builder.stderr is not None
        deadline = time.monotonic() + 60
        while len(workers := children(builder.pid)) < 3 and time.monotonic() < deadline:  # and a resource tracker
            time.sleep(0.1)
        time.sleep(0.5)
        builder.send_signal(number)
        assert builder.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
        if number != signal.SIGKILL:
            assert builder.stderr.read().splitlines()[-1] == f"moto: ended by {signal.Signals(number).name}"
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert len(workers) == 3 and not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []
