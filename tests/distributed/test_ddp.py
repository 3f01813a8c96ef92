"""Two processes: they learn what one would, share what they collect, and resume exactly.

The unbroken run, and those that lose a process, start the second one themselves; where that is not what is tested, both
start warm.
"""

from __future__ import annotations

import csv
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from moto_pl.evaluations import read_evaluations
from moto_pl.replay import EpisodeStore
from runs import (
    assert_same_end,
    assert_same_weights,
    cold_fit,
    command,
    environment,
    fault,
    final,
    fit,
    fit_ranks,
)

TWO_EPISODES = ("--data.num_envs", "2")
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp", *TWO_EPISODES)
#: For a run that loses a process. No fewer seconds: within them the second has to start, on a busy machine too.
LOST = ("--data.eval_episodes", "5", "--peer_timeout_s", "30")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unbroken(data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ddp") / "unbroken"
    more = ("--data.eval_episodes", "5", "--evaluate_untrained", "true", "--trainer.log_every_n_steps", "1")
    done = cold_fit(run, *data, *TWO, *more)
    assert done.returncode == 0, done.stderr
    assert "unused parameters" not in done.stderr  # torch's advice, which does not apply
    return run


Broken = Future[subprocess.CompletedProcess[str]]


def broken(
    run: Path, data: tuple[str, ...], step: int, rank: int, signal_name: str
) -> subprocess.CompletedProcess[str]:
    """A run of two processes, one of which sends itself a signal."""
    return fit(run, *data, *TWO, *LOST, *fault(step, signal_name=signal_name, rank=rank), timeout=180)


@pytest.fixture(scope="module")
def stopped(data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Broken]]:
    """A run that ends half a minute after its first process was stopped, while other tests run."""
    run = tmp_path_factory.mktemp("ddp") / "stopped"
    with ThreadPoolExecutor(1) as pool:
        yield run, pool.submit(broken, run, data, 32, 0, "SIGSTOP")


@pytest.mark.usefixtures("stopped")  # which has begun then
def test_gradients_are_those_of_one_process(data: tuple[str, ...], tmp_path: Path) -> None:
    """Two processes take the steps of one, also of several batches each; test_elastic.py looks closer."""
    short = ("--data.offline_steps", "6", "--data.online_steps", "0", "--data.eval_episodes", "0")
    short += ("--trainer.accumulate_grad_batches", "2")
    two = fit_ranks(tmp_path / "two", *data, *short, *TWO_EPISODES)
    one = fit(tmp_path / "one", *data, *short)
    assert two.returncode == 0 and one.returncode == 0, two.stderr + one.stderr
    a, b = final(tmp_path / "two"), final(tmp_path / "one")
    assert a["global_step"] == b["global_step"] == 6
    moments = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    for index in moments[0]:
        # Adam's first moment is a sum of gradients: its size is theirs.
        left, right = (m[index]["exp_avg"] for m in moments)
        assert (left - right).abs().max() <= 1e-3 * right.abs().max() + 1e-7, index
    for name, weight in a["state_dict"].items():
        torch.testing.assert_close(weight, b["state_dict"][name], rtol=1e-3, atol=1e-4, msg=name)


def test_ranks_share_what_they_collect(unbroken: Path) -> None:
    store = EpisodeStore(unbroken / "replay")
    assert len(store) == 10 + 2 * 2  # twenty steps, five for each of a round's two episodes
    collected = [store[i].info["seed"] for i in range(10, 14)]
    assert len(set(collected)) == 4
    assert final(unbroken)["callbacks"]["CollectEpisodes"]["collected_episodes"] == 4
    with open(unbroken / "csv/version_0/metrics.csv") as file:
        logged = [row for row in csv.DictReader(file) if row.get("online/return")]
    assert len(logged) == 2  # and the rounds' figures are those of all their episodes
    for row, pair in zip(logged, ((10, 11), (12, 13)), strict=True):
        returns = [store[i].total_reward for i in pair]
        assert float(row["online/return"]) == pytest.approx(sum(returns) / 2, abs=1e-5)


def test_evaluation_counts_each_episode_once(unbroken: Path) -> None:
    records = read_evaluations(unbroken)
    assert [record["phase"] for record in records] == ["untrained", "pretrained", "final"]
    for record in records:  # five episodes over two ranks: three and two
        assert record["seed"] == list(range(2**30, 2**30 + 5))
    with open(unbroken / "csv/version_0/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/return"]]
    for record, row in zip(records[-2:], rows[-2:], strict=True):
        assert float(row["eval/return"]) == pytest.approx(sum(record["return"]) / 5, rel=1e-5)
        for name in ("success", "success_last", "success_steps"):
            assert float(row[f"eval/{name}"]) == pytest.approx(sum(record[name]) / 5, rel=1e-5)


def test_logs_are_written_once(unbroken: Path) -> None:
    assert [path.name for path in (unbroken / "csv").iterdir()] == ["version_0"]
    with open(unbroken / "csv/version_0/metrics.csv") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row.get("loss")]
    assert len(steps) == len(set(steps)) == 40


def assert_ends_with_a_line_and_resumes_exactly(
    run: Path, killed: subprocess.CompletedProcess[str], rank: int, fate: str, data: tuple[str, ...], unbroken: Path
) -> None:
    assert killed.returncode != 0
    (line,) = (line for line in killed.stderr.splitlines() if line.startswith("moto: "))
    assert re.search(rf"trainer.devices: found 2 processes in all, of which rank {rank} \(process \d+\) {fate}", line)
    assert "the same command goes on" in line and "Traceback" not in killed.stderr
    assert final(run)["global_step"] < 40
    resumed = fit_ranks(run, *data, *TWO_EPISODES, *LOST)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert_same_end(unbroken, run)


@pytest.mark.parametrize(("step", "rank", "signal_name"), [(13, 1, "SIGKILL"), (28, 0, "SIGSEGV")])
def test_a_lost_rank_ends_all_with_a_line_and_resume_is_exact(
    step: int, rank: int, signal_name: str, data: tuple[str, ...], unbroken: Path, tmp_path: Path
) -> None:
    killed = broken(tmp_path / "run", data, step, rank, signal_name)
    assert_ends_with_a_line_and_resumes_exactly(tmp_path / "run", killed, rank, "has ended", data, unbroken)


def test_a_stopped_rank_does_so_too(stopped: tuple[Path, Broken], data: tuple[str, ...], unbroken: Path) -> None:
    run, ends = stopped
    assert_ends_with_a_line_and_resumes_exactly(run, ends.result(), 0, "is stopped", data, unbroken)


def test_four_processes_resume_exactly(data: tuple[str, ...], tmp_path: Path) -> None:
    """Of two processes' gradients there is one sum; four add theirs up in the order of the buckets that they lie in."""
    four = (*data, "--data.num_envs", "4", "--data.offline_steps", "20", "--data.online_steps", "0")
    for run, args in (("unbroken", ()), ("killed", fault(13, rank=3)), ("killed", ())):
        done = fit_ranks(tmp_path / run, *four, *args, processes=4)
        assert (done.returncode == 0) == (not args), done.stderr
    assert "resuming" in done.stdout
    assert_same_weights(tmp_path / "unbroken", tmp_path / "killed")


def test_torchrun_starts_a_run_again_by_itself(data: tuple[str, ...], unbroken: Path, tmp_path: Path) -> None:
    """After a process is killed: to the same bits, without anybody at the keyboard."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", "1"]
    settings = (*data, *TWO, "--data.eval_episodes", "5", "--evaluate_untrained", "true", *fault(33, rank=1))
    words = [sys.executable, *torchrun, *command(tmp_path / "run", *settings)[1:]]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout and "at gradient step 30 of 40" in done.stdout
    assert re.search(r"of which rank 1 \(process \d+\) has ended|ended by SIGTERM", done.stderr)
    assert_same_end(unbroken, tmp_path / "run")


def test_one_environment_is_one_episode_whatever_the_number_of_processes(data: tuple[str, ...], tmp_path: Path) -> None:
    """One process of the two collects, the other waits: the ratio of steps to episodes is the setting."""
    done = fit_ranks(tmp_path / "run", *data, "--data.num_envs", "1")
    assert done.returncode == 0, done.stderr
    assert "4 rounds of 1 episode(s) and 5 steps: 5 steps per episode" in done.stderr
    assert len(EpisodeStore(tmp_path / "run/replay")) == 10 + 4


@pytest.mark.parametrize("processes", [(2, 1), (1, 2)], ids=["two-to-one", "one-to-two"])
def test_another_number_of_processes(processes: tuple[int, int], data: tuple[str, ...], tmp_path: Path) -> None:
    """It is allowed and warned about; no episode is collected twice and none is lost."""

    def go(number: int, *args: str) -> subprocess.CompletedProcess[str]:
        return fit_ranks(run, *data, *TWO_EPISODES, *args) if number == 2 else fit(run, *data, *args)

    run = tmp_path / "run"
    first = go(processes[0], "--data.online_steps", "10")
    assert first.returncode == 0, first.stderr
    known = EpisodeStore(run / "replay")
    crcs = [known[i].crc for i in range(len(known))]
    assert len(crcs) == 10 + 2
    second = go(processes[1])
    assert second.returncode == 0, second.stderr
    assert f"written by {processes[0]} process" in second.stderr + second.stdout
    assert final(run)["global_step"] == 40
    store = EpisodeStore(run / "replay")
    assert len(store) == 10 + 2 + 2
    assert [store[i].crc for i in range(len(crcs))] == crcs
    seeds = [store[i].info["seed"] for i in range(10, len(store))]
    assert len(set(seeds)) == len(seeds)


def test_a_port_in_use_is_one_line_before_another_process_is_started(
    data: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        refused = fit(tmp_path / "run", *data, *TWO, timeout=100)
    assert refused.returncode == 2
    (line,) = (line for line in refused.stderr.splitlines() if "found" in line)
    assert line.startswith(f"moto: MASTER_PORT: found {port}, which another program uses. Give a free port, or leave")
    assert not (tmp_path / "run").exists()
