"""The report of a run that goes on: when it is written, when it loads itself again, and what a failure does."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from moto_pl.callbacks import live_report
from moto_pl.callbacks.live_report import LiveReport, ReportWriter
from moto_pl.cli import main
from moto_pl.errors import SettingError
from moto_pl.files import lock_run
from moto_pl.report.page import write_report
from report_runs import Page, write_run
from runs import CONFIGS


def ask(run: Path, every: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "report_every": every}))


def is_live(run: Path) -> bool:
    page = Page(write_report(run).read_text())
    scripts = [tag for tag, _ in page.found if tag == "script"]
    assert len(scripts) == any(attributes.get("id") == "live" for _, attributes in page.found)
    assert not any(attributes.get("src", "data:")[:5] != "data:" for _, attributes in page.found)  # nothing is loaded
    return bool(scripts)


def test_a_page_loads_itself_again_while_the_run_goes_on_and_not_afterwards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with lock_run(run):
        assert not is_live(run)  # nobody writes the next one
        ask(run, 2.5)
        assert is_live(run)
        page = (run / "report.html").read_text()
        assert "written again every 2 min" in page and "location.reload()" in page
        written, every = map(int, re.findall(r"1000 - (\d+) < 3 \* (\d+)", page)[0])
        assert abs(time.time() - written) < 60 and every == 150
        for nothing in (0, -1, True, "2", None, float("nan"), float("inf")):
            ask(run, nothing)
            assert not is_live(run), nothing
        ask(run, 2.5)
    assert not is_live(run)


class Trainer(SimpleNamespace):
    def __init__(self, run: Path, rank: int = 0) -> None:
        super().__init__(default_root_dir=str(run), is_global_zero=rank == 0)


def test_it_is_written_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, begun = [100.0], []
    monkeypatch.setattr(live_report.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ReportWriter, "start", lambda writer: begun.append((writer.run, now[0])))
    callback, trainer, module = LiveReport(2), Trainer(tmp_path), Any
    for now[0] in (100.0, 150.0, 219.0, 221.0, 300.0, 342.0):
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert begun == [(tmp_path, 100.0), (tmp_path, 221.0), (tmp_path, 342.0)]
    LiveReport(2).on_train_batch_end(Trainer(tmp_path, rank=1), module, None, None, 0)  # type: ignore[arg-type]
    LiveReport(0).on_validation_end(trainer, module)  # type: ignore[arg-type]
    assert len(begun) == 3
    for every in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingError, match="report_every"):
            LiveReport(every)


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    writer = ReportWriter(tmp_path)  # which holds no run
    writer.start()
    with pytest.warns(UserWarning, match=r"could not be written \(moto: run: found .*holds no run.*training goes on"):
        writer.finish()
    assert not writer.busy


def test_a_page_that_says_more_than_a_pipe_holds_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        live_report, "_CODE", "import sys; print(10**6 * chr(10), file=sys.stderr); sys.exit('the last')"
    )
    writer = ReportWriter(tmp_path)
    writer.start()
    with pytest.warns(UserWarning, match=r"could not be written \(the last\)"):
        writer.finish(timeout_s=20)


def test_two_are_not_written_at_once(tmp_path: Path) -> None:
    writer = ReportWriter(write_run(tmp_path / "run"))
    writer.start()
    process = writer._process
    writer.start()
    assert writer._process is process and writer.busy
    writer.finish()
    assert (tmp_path / "run/report.html").exists() and not writer.busy


def test_a_run_leaves_a_whole_page_that_stays_as_it_is(reach_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.env_workers", "0")
    short = ("--data.offline_steps", "2", "--data.online_steps", "0", "--data.eval_episodes", "1")
    quick = ("--video_episodes", "0", "--evaluate_untrained", "false", "--data.value_steps", "0")
    args = ("--config", str(CONFIGS / "debug.yaml"), "--trainer.default_root_dir", str(run), *data, *short, *quick)
    assert main(["fit", *args, "--report_every", "60"]) == 0
    page = (run / "report.html").read_text()
    assert "at the end" in page and "location.reload" not in page
    assert yaml.safe_load((run / "config.yaml").read_text())["report_every"] == 60
