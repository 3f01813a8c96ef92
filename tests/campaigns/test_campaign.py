"""Whole campaigns of tiny runs, in processes of their own, and what kills them."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import warm
from campaigns_files import SHORT, TINY, attempts, command, processes, run, start, wait_for, write
from moto_pl.campaigns.plan import read_campaign
from moto_pl.campaigns.results import COLUMNS
from moto_pl.cli import main
from runs import assert_same_weights, environment, final

#: Long enough to be killed half-way: ten rounds of two steps.
LONGER = (*SHORT[:2], "--data.online_steps=18", "--data.updates_per_episode=2")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_survives_what_is_killed(tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker, then the campaign itself; it ends as if nothing had been, and then there is nothing left to do."""
    path = write(tmp_path, reach_dataset, (*TINY, *LONGER), seeds=[0, 1], slots=2, nice=1)
    first, second = (one.directory for one in read_campaign(path).grid())
    campaign = start(path)
    try:
        wait_for(lambda: (first / "checkpoints/last.ckpt").exists())
        victim = next(pid for pid, root in processes(tmp_path).items() if root == first)
        assert os.getpriority(os.PRIO_PROCESS, victim) == os.getpriority(os.PRIO_PROCESS, campaign.pid) + 1
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: attempts(first) == 2 and attempts(second) == 1)
        wait_for(lambda: len(processes(tmp_path)) == 2)
    finally:
        campaign.kill()
    said, _ = campaign.communicate()
    assert "taken up again: killed by SIGKILL" in said
    wait_for(lambda: not processes(tmp_path), 10)  # nothing goes on without it

    done = run(path)
    assert done.returncode == 0, done.stderr
    assert "0 of 2 runs are done" in done.stdout and "goes on at step" in done.stdout
    assert "| MOTO " in done.stdout  # moto compare
    unbroken = tmp_path / "unbroken"
    words = [word for word in read_campaign(path).grid()[0].arguments if "default_root_dir" not in word]
    warm.run(
        ["moto_pl.cli", "fit", *words, f"--trainer.default_root_dir={unbroken}"], environment(), 200
    ).check_returncode()
    assert final(first)["global_step"] == 20
    assert_same_weights(first, unbroken)

    table = tmp_path / "results/tiny/MOTO/reach.csv"
    kept, begun = table.read_text(), (attempts(first), attempts(second))
    assert [(row["seed"], row["step"]) for row in rows(table)] == [("0", "2"), ("0", "20"), ("1", "2"), ("1", "20")]
    assert tuple(rows(table)[0]) == COLUMNS and all(row["wall_seconds"] for row in rows(table))
    capsys.readouterr()
    assert main(["campaign", str(path)]) == 0 and "2 of 2 runs are done" in capsys.readouterr().out
    assert table.read_text() == kept and (attempts(first), attempts(second)) == begun
    assert (tmp_path / "results/tiny/campaign.yaml").read_bytes() == path.read_bytes()
    assert (tmp_path / "results/tiny/compare/reach/comparison_table.csv").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_failed_runs_are_shown_and_the_others_go_on(
    tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = {
        "refused": ["--data.replay_limit_gb=0.00001"],  # which only the data can tell
        "dies": ["--trainer.callbacks+=faults.FaultAt", "--trainer.callbacks.step=1"],
        "BC": {"model": "moto_pl.agents.BC", "model.init_args.pixels.channels": [4, 4, 4, 4]},
    }
    path = write(tmp_path, reach_dataset, agents=agents, retries=1, slots=2)
    done = run(path, "--trust", "faults")
    assert done.returncode == 1, done.stderr
    refused, dies, good = (one.directory for one in read_campaign(path, ["faults"]).grid())
    assert (attempts(refused), attempts(dies), attempts(good)) == (1, 2, 1)  # bad input stays bad
    assert "reach/refused/default/seed0: failed (1 of 2), given up: data.replay_limit_gb" in done.stdout
    assert "reach/dies/default/seed0: failed (2 of 2), given up: killed by SIGKILL" in done.stdout
    assert "reach/BC/default/seed0: done, 4/4" in done.stdout and "| BC " in done.stdout
    assert len(rows(tmp_path / "results/tiny/BC/reach.csv")) == 2

    assert main(["campaign", str(path), "--status", "--trust", "faults"]) == 1
    shown = capsys.readouterr().out
    assert "1 of 3 runs done, 2 failed" in shown
    assert "reach/refused/default/seed0: data.replay_limit_gb" in " ".join(shown.split())
    assert main(["campaign", str(path), "--trust", "faults"]) == 1
    assert "2 given up before" in capsys.readouterr().out
    assert (attempts(refused), attempts(dies), attempts(good)) == (1, 2, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_ends_it_with_its_checkpoints(
    tmp_path: Path, reach_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it goes on, no other may use its directory."""
    path = write(tmp_path, reach_dataset, (*TINY, *SHORT[:2], "--data.online_steps=2000", "--data.eval_episodes=0"))
    (one,) = read_campaign(path).grid()
    campaign = start(path)
    try:
        wait_for(lambda: (one.directory / "checkpoints/last.ckpt").exists())
        assert main(["campaign", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("moto: runs: ") and "another campaign" in error and error.count("\n") == 1, error
        assert main(["campaign", str(path), "--status"]) == 1 and "1 running" in capsys.readouterr().out
        campaign.send_signal(signal.SIGTERM)
        said, error = campaign.communicate(timeout=100)
    finally:
        campaign.kill()
    assert campaign.returncode == 128 + signal.SIGTERM, error
    assert "stopping 1 run" in said and not processes(tmp_path)
    # In an episode there is nothing to save but what the last checkpoint has.
    assert re.search("SIGTERM: (saved|stopped)", (one.directory / "log.txt").read_text())
    assert not (tmp_path / "runs/campaign.json").read_text().strip("{}\n ")  # that was no failure of the run's


@pytest.mark.slow
def test_a_full_disk_ends_it_cleanly_and_it_goes_on_later(tmp_path: Path, reach_dataset: Path) -> None:
    """The disk is a small one in memory; the run finds it full, and so does the campaign."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        path = write(tmp_path, reach_dataset, runs=str(disk / "runs"))
        full = run(path)
        assert full.returncode == 2 and full.stderr.count("\n") == 1, full.stderr
        assert full.stderr.startswith("moto: runs: ") and "No space left" in full.stderr and not processes(tmp_path)
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        done = run(path)
        assert done.returncode == 0, done.stderr
        assert len(rows(tmp_path / "results/tiny/MOTO/reach.csv")) == 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_help_is_a_verbs(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path / "x.yaml", "--wher", "local"), capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "--where" in done.stderr and done.stderr.count("\n") == 1
