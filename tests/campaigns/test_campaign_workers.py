"""Processes that take too long, and what is said of those that ended; the table that shows them."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from campaigns_files import attempts, processes, write
from moto_pl.campaigns.plan import read_campaign
from moto_pl.campaigns.progress import Progress, checkpoint_step, planned_steps, read_progress
from moto_pl.campaigns.table import Status, campaign_table
from moto_pl.campaigns.workers import LOG, Job, Outcome, Process, end, last_error, watch


def job(directory: Path, timeout_s: float | None = None) -> Job:
    words = ("--config", "nowhere.yaml", f"--trainer.default_root_dir={directory}")
    return Job("x", words, str(directory), 1, 0, timeout_s, str(Path.cwd()))


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    process = Process(job(tmp_path, timeout_s=0.01))
    outcome = watch(process)
    assert outcome.code != 0 and last_error(tmp_path, outcome) == "took more than 0.000166667 minutes"
    assert not processes(tmp_path)


def test_its_log_is_added_to_and_its_last_attempt_read(tmp_path: Path) -> None:
    # A process that is killed in the middle of a line does not hide where the next attempt begins.
    (tmp_path / LOG).write_text("==== then\nValueError: an earlier one")
    outcome = watch(Process(job(tmp_path)))
    assert outcome == Outcome(2) and attempts(tmp_path) == 2
    assert last_error(tmp_path, outcome).startswith("--config: found nowhere.yaml")


def test_one_that_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    process = Process(job(tmp_path))
    assert watch(process, lambda: False).code is None
    assert process.poll() is not None and not processes(tmp_path)


@pytest.mark.parametrize(
    ("log", "outcome", "said"),
    [
        ("Traceback\ntorch.OutOfMemoryError: none\nwarning: leaked\n", Outcome(1), "torch.OutOfMemoryError: none"),
        ("moto: data.env: found 'x'. Give y.\n", Outcome(2), "data.env: found 'x'. Give y."),
        ("offline 3/9\n", Outcome(-9), "killed by SIGKILL, perhaps for want of memory"),
        ("RuntimeError: x\n", Outcome(-15), "killed by SIGTERM; last: RuntimeError: x"),
        ("", Outcome(7), "exit status 7"),
        ("offline 3/9\n", Outcome(None, "job 3: node failed"), "job 3: node failed"),
    ],
)  # fmt: skip
def test_how_it_ended(log: str, outcome: Outcome, said: str, tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(f"RuntimeError: before\n==== now\n{log}")
    assert last_error(tmp_path, outcome) == said


def test_one_that_does_not_listen_is_killed() -> None:
    class Deaf:
        job_id, asked, killed = None, 0, False

        def poll(self) -> Outcome | None:
            return Outcome(-9) if self.killed else None

        def stop(self) -> None:
            self.asked += 1

        def kill(self) -> None:
            self.killed = True

    deaf, begun = Deaf(), time.monotonic()
    end(deaf, grace_s=0.3)
    assert (deaf.asked, deaf.killed) == (1, True) and time.monotonic() - begun >= 0.3
    hasty = Deaf()
    end(hasty, urgent=lambda: True)
    assert hasty.killed and time.monotonic() - begun < 10


def test_progress_of_a_run_that_is_being_written(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == Progress() and planned_steps(tmp_path) is None
    for version, lines in ((9, "3,\n5,2.5\n"), (10, "6,\n7,1.5\n8,\n9")):
        (tmp_path / f"csv/version_{version}").mkdir(parents=True)
        (tmp_path / f"csv/version_{version}/metrics.csv").write_text(f"step,speed/updates_per_s\n{lines}")
    assert read_progress(tmp_path) == Progress(9, 1.5)  # the last line is not whole
    (tmp_path / "csv/version_11").mkdir()  # moto validate opens one too, which trains nothing
    (tmp_path / "csv/version_11/metrics.csv").write_text("epoch,eval/return,eval/success,step\n0,1.5,0.25,0\n")
    (tmp_path / "csv/version_12").mkdir()
    assert read_progress(tmp_path) == Progress(9, 1.5)
    (tmp_path / "evaluations.jsonl").write_text('{"stage": "eval", "step": 20, "success": [true, false]}\n{"sta')
    assert read_progress(tmp_path) == Progress(20, 1.5, 0.5, 20)
    (tmp_path / "last.ckpt").write_bytes(b"PK half of one")
    assert checkpoint_step(tmp_path / "last.ckpt") == 0


def test_the_table(tmp_path: Path) -> None:
    campaign = read_campaign(write(tmp_path, agents={"MOTO": [], "BC": []}, seeds=[0, 1, 2]))
    statuses = {run: Status() for run in campaign.grid()}
    mine = {run.seed: statuses[run] for run in statuses if run.agent == "MOTO"}
    mine[0].kind, mine[0].progress = "done", Progress(4000, 5.0, 0.75, 4000)
    mine[1].kind, mine[1].progress, mine[1].total = "running", Progress(1200, 5.25, 0.25, 1000), 4000
    mine[2].kind, mine[2].error = "failed", "data.env: [x] is not there"
    text = io.StringIO()
    Console(file=text, width=100).print(campaign_table(campaign, statuses))
    shown = text.getvalue()
    assert "tiny: 1 of 6 runs done, 1 running, 1 failed" in shown and "BC" in shown and "0 of 3" in shown
    assert "1 of 3  success 0.50" in shown and "seed 1: 1,200/4,000  5.2/s" in shown and "failed: seed 2" in shown
    assert "reach/MOTO/default/seed2: data.env: [x] is not there" in shown
