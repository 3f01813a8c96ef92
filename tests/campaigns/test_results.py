"""Rows that are replaced rather than doubled, and the time that they say."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from campaigns_files import write
from moto_pl.campaigns.plan import Campaign, Run, read_campaign
from moto_pl.campaigns.results import COLUMNS, has_rows, keep_rows, method, rows_path, wall_seconds
from moto_pl.errors import SettingError


def evaluate(run: Run, step: int, success: list[bool], stage: str = "eval", **more: object) -> None:
    run.directory.mkdir(parents=True, exist_ok=True)
    count = len(success)
    record = {"stage": stage, "step": step, "phase": "online", "online_episodes": 3, "seed": list(range(count))}
    record |= {"return": [2.0] * count, "success": success, "length": [30] * count, **more}
    with open(run.directory / "evaluations.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")


def rows(campaign: Campaign, run: Run) -> list[dict[str, str]]:
    with open(rows_path(campaign, run)) as file:
        return list(csv.DictReader(file))


def test_rows_are_replaced(tmp_path: Path) -> None:
    campaign = read_campaign(write(tmp_path, seeds=[2, 10], settings={"b": [], "a": []}))
    runs = campaign.grid()
    for run in runs:
        evaluate(run, 4, [True, False])
        evaluate(run, 100, [True, True], "test")  # test seeds are not for curves
        assert not has_rows(campaign, run)
        keep_rows(campaign, run)
        assert has_rows(campaign, run)
    found = rows(campaign, runs[0])
    assert [(row["setting"], row["seed"]) for row in found] == [("a", "2"), ("a", "10"), ("b", "2"), ("b", "10")]
    assert tuple(found[0]) == COLUMNS and found[0]["success"] == "0.5" and found[0]["episodes"] == "2"
    assert found[0]["success_last"] == "" and found[0]["objects"] == "" and found[0]["wall_seconds"] == ""
    before = rows_path(campaign, runs[0]).read_bytes()
    keep_rows(campaign, runs[0])
    assert rows_path(campaign, runs[0]).read_bytes() == before
    evaluate(runs[0], 4, [True, True])  # evaluated again: the later record counts
    evaluate(
        runs[0],
        8,
        [True, True],
        success_last=[True, False],
        success_steps=[7, 2],
        completed=[[True, True], [True, False]],
    )
    assert not has_rows(campaign, runs[0])
    keep_rows(campaign, runs[0])
    mine = [row for row in rows(campaign, runs[0]) if (row["setting"], row["seed"]) == (runs[0].setting, "2")]
    assert [(row["step"], row["success"]) for row in mine] == [("4", "1.0"), ("8", "1.0")]
    assert (mine[1]["success_last"], mine[1]["success_steps"], mine[1]["objects"]) == ("0.5", "4.5", "1.5")
    assert len(rows(campaign, runs[0])) == 5


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    campaign = read_campaign(write(tmp_path))
    (run,) = campaign.grid()
    evaluate(run, 4, [True])
    path = rows_path(campaign, run)
    path.parent.mkdir(parents=True)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SettingError, match="^results: .*reach.csv"):
        keep_rows(campaign, run)
    assert path.read_text() == "a,b\n1,2\n"


def test_pauses_do_not_count_as_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed, an hour's pause, and one that did its last step again."""
    from torch.utils.tensorboard import SummaryWriter

    begun = time.time()
    for pause, entries in (
        (0, [("eval/return", 0, 5), ("loss", 0, 6), ("eval/return", 9, 20), ("loss", 12, 30)]),
        (3600, [("loss", 10, 4), ("eval/return", 19, 10)]),
    ):
        monkeypatch.setattr(time, "time", lambda pause=pause: begun + pause)
        writer = SummaryWriter(tmp_path, filename_suffix=str(pause))
        for tag, step, seconds in entries:
            writer.add_scalar(tag, 1.0, step, walltime=begun + pause + seconds)
        writer.close()
    monkeypatch.undo()
    assert wall_seconds(tmp_path) == {0: 5, 10: 20, 20: 40}
    assert wall_seconds(tmp_path / "nothing") == {}


def test_what_a_method_is_called(tmp_path: Path) -> None:
    one = read_campaign(write(tmp_path))
    assert method(one, one.grid()[0]) == "MOTO"
    two = read_campaign(write(tmp_path, settings={"x": [], "y": []}))
    assert [method(two, run) for run in two.grid()] == ["MOTO, x", "MOTO, y"]
