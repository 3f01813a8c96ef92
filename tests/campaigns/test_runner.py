"""What a campaign starts, takes up again and gives up; a stand-in for its runs leaves what a run leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from campaigns_files import write
from moto_pl.campaigns.check import Settings
from moto_pl.campaigns.plan import Campaign, read_campaign
from moto_pl.campaigns.progress import STATE
from moto_pl.campaigns.runner import Runner
from moto_pl.campaigns.workers import LOG, Job, Outcome, Worker
from moto_pl.errors import SettingError

STEPS = 4


def leave(directory: Path, step: int = STEPS, evaluated: int = STEPS) -> None:
    """What a run leaves that has come to ``step``."""
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "global_step": step}, directory / "checkpoints/last.ckpt")
    record = {"stage": "eval", "step": evaluated, "phase": "final", "online_episodes": 1, "seed": [1, 2]}
    record |= {"return": [1.0, 2.0], "success": [True, False], "length": [30, 30]}
    (directory / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    (directory / "config.yaml").write_text("{model: {}, data: {}}")


class Played:
    """A worker that ends at its second look."""

    def __init__(self, job: Job, ends: Callable[[Path], Outcome], job_id: str | None) -> None:
        self.job, self.ends, self.job_id, self.looks, self.stopped = job, ends, job_id, 0, False

    def poll(self) -> Outcome | None:
        self.looks += 1
        if self.stopped:
            return Outcome(-15)
        return self.ends(Path(self.job.directory)) if self.looks > 1 else None

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.stopped = True


class Stage:
    """Workers that play: ``ends`` says by a run's name how each of its attempts ends; the last for all further ones."""

    def __init__(self, ends: dict[str, list[Callable[[Path], Outcome]]] | None = None, cluster: bool = False) -> None:
        self.ends, self.cluster = ends or {}, cluster
        self.started: list[str] = []
        self.workers: list[Played] = []
        self.together: list[set[str]] = []
        self.left: dict[str, Played] = {}

    def start(self, job: Job) -> Worker:
        ends = self.ends.get(job.name, [finishes])
        attempt = self.started.count(job.name)
        self.started.append(job.name)
        job_id = f"job{len(self.started)}" if self.cluster else None
        worker = Played(job, ends[min(attempt, len(ends) - 1)], job_id)
        self.together.append({one.job.name for one in self.workers if one.looks <= 1} | {job.name})
        self.workers.append(worker)
        return worker

    def find(self, job_id: str) -> Worker | None:
        return self.left.get(job_id)

    def close(self) -> None:
        pass


def finishes(directory: Path) -> Outcome:
    leave(directory)
    return Outcome(0)


def says(code: int | None, line: str) -> Callable[[Path], Outcome]:
    def end(directory: Path) -> Outcome:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / LOG).write_text(f"==== then moto fit\nnothing of note\n{line}\nand a last word\n")
        return Outcome(code)

    return end


def runner(path: Path, stage: Stage, build: str | None = None, again: bool = False) -> Runner:
    campaign: Campaign = read_campaign(path)
    campaign.runs.mkdir(exist_ok=True)
    settings = {run.cell: Settings(STEPS, True, build, {}) for run in campaign.grid()}
    return Runner(campaign, settings, stage, again)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.campaigns.runner._POLL_S", 0.001)


def name(seed: int, agent: str = "MOTO") -> str:
    return f"reach/{agent}/default/seed{seed}"


def state(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "runs" / STATE).read_text())


def test_no_more_than_its_slots_and_each_once(tmp_path: Path) -> None:
    path, stage = write(tmp_path, seeds=[0, 1, 2, 3, 4], slots=2), Stage()
    assert runner(path, stage).run() == 0
    assert stage.started == [name(seed) for seed in range(5)]
    assert max(map(len, stage.together)) == 2
    again = Stage()
    assert runner(path, again).run() == 0 and again.started == []


def test_a_dataset_is_not_built_twice_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "dataset"

    def builds(directory: Path) -> Outcome:
        (target / "data").mkdir(parents=True)
        return finishes(directory)

    path = write(tmp_path, seeds=[0, 1, 2], slots=3)
    stage = Stage({name(0): [builds]})
    assert runner(path, stage, str(target)).run() == 0
    assert stage.together == [{name(0)}, {name(1)}, {name(1), name(2)}]


@pytest.mark.parametrize(("code", "attempts"), [(1, 3), (-9, 3), (None, 3), (143, 3), (2, 1)])
def test_it_is_taken_up_again_so_often(code: int | None, attempts: int, tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[0, 1], retries=2)
    stage = Stage({name(0): [says(code, "ValueError: that was it")]})
    first = runner(path, stage)
    assert first.run() == 1
    assert stage.started == [name(0)] * attempts + [name(1)]
    assert "ValueError: that was it" in state(tmp_path)[name(0)]["error"] and name(1) not in state(tmp_path)
    again = Stage()
    assert runner(path, again).run() == 1 and again.started == []
    assert runner(path, again, again=True).run() == 0 and again.started == [name(0)] and state(tmp_path) == {}


def test_failures_before_the_campaigns_end_count(tmp_path: Path) -> None:
    path = write(tmp_path, retries=2)

    def ends_all(directory: Path) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return says(1, "RuntimeError: no")(directory)

    stage = Stage({name(0): [says(1, "RuntimeError: no"), ends_all]})
    assert runner(path, stage).run() == 128 + signal.SIGTERM
    stage = Stage({name(0): [says(1, "RuntimeError: no")]})
    assert runner(path, stage).run() == 1 and stage.started == [name(0)]


def test_what_ends_without_its_end_is_a_failure(tmp_path: Path) -> None:
    """Weights without the last evaluation, and the other way round."""
    for step, evaluated in ((STEPS, 2), (2, STEPS)):
        root = tmp_path / f"{step}"
        root.mkdir()

        def half(directory: Path, step: int = step, evaluated: int = evaluated) -> Outcome:
            leave(directory, step, evaluated)
            return Outcome(0)

        stage = Stage({name(0): [half]})
        assert runner(write(root, retries=0), stage).run() == 1
        assert "without an error" in state(root)[name(0)]["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_its_runs_and_is_no_failure(number: int, tmp_path: Path) -> None:
    def never(directory: Path) -> Any:
        os.kill(os.getpid(), number)

    stage = Stage({name(seed): [never] for seed in (0, 1)})
    before = signal.getsignal(number)
    assert runner(write(tmp_path, seeds=[0, 1, 2], slots=2), stage).run() == 128 + number
    assert [worker.stopped for worker in stage.workers] == [True, True] and state(tmp_path) == {}
    assert signal.getsignal(number) is before


def test_a_full_disk_is_no_failure_of_the_runs(tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[0, 1], slots=2)
    full = says(2, "moto: replay: found /x (No space left on device). Free disk space.")
    stage = Stage({name(0): [full], name(1): [lambda directory: None]})  # type: ignore[list-item, return-value]
    with pytest.raises(SettingError, match=r"^runs: found .*No space left on device.*go on from their last"):
        runner(path, stage).run()
    assert stage.workers[1].stopped and state(tmp_path) == {}


def test_a_disk_that_is_nearly_full_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], 10, *real[5:])))
    stage = Stage()
    with pytest.raises(SettingError, match="^runs: .*No space left"):
        runner(write(tmp_path), stage).run()
    assert stage.started == []


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "results/tiny").mkdir(parents=True)
    (tmp_path / "results/tiny/MOTO").write_text("a file in its way")
    with pytest.raises(SettingError, match=r"^results: found .*MOTO"):
        runner(path, Stage()).run()


def test_rows_that_a_kill_prevented_are_written_later(tmp_path: Path) -> None:
    path = write(tmp_path)
    (run,) = read_campaign(path).grid()
    leave(run.directory)
    stage = Stage()
    assert runner(path, stage).run() == 0 and stage.started == []
    assert len((tmp_path / "results/tiny/MOTO/reach.csv").read_text().splitlines()) == 2


def test_jobs_of_a_campaign_that_was_killed_are_found_again(tmp_path: Path) -> None:
    path = write(tmp_path, seeds=[0, 1], slots=2)
    first = Stage(cluster=True)
    one = runner(path, first)
    one._begin()
    one._step()
    assert {note["job"] for note in state(tmp_path).values()} == {"job1", "job2"}
    stage = Stage(cluster=True)
    stage.left = {"job1": first.workers[0]}  # the other one is lost
    assert runner(path, stage).run() == 0
    assert stage.started == [name(1)] and state(tmp_path) == {}


def test_a_damaged_state_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "runs").mkdir()
    for content in ("{", "[]", '{"x": {"y": 1}}', '{"x": 3}'):
        (tmp_path / "runs" / STATE).write_text(content)
        with pytest.raises(SettingError, match=r"^runs: .*campaign.json"):
            runner(path, Stage())
