"""``moto watch`` on runs that are empty, running, killed, finished, resumed and hostile."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from moto_pl.cli import main
from moto_pl.files import ERRORS, LOCK, lock_run
from moto_pl.report import watch
from report_runs import ONLINE, add_evaluation, write_metrics, write_run


def shown(run: Path, now: float | None = None, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(watch.view(run, watch.read(run), time.time() if now is None else now))
    return console.file.getvalue()  # type: ignore[attr-defined]


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Another process holds the run, as its training does."""
    code = "import sys; from pathlib import Path; from moto_pl.files import lock_run\n"
    code += "with lock_run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.communicate("")


@pytest.fixture()
def half(tmp_path: Path) -> Path:
    """A run that has come to 60 of 200 gradient steps."""
    run = write_run(tmp_path / "half")
    (run / "evaluations.jsonl").unlink()
    add_evaluation(run, "eval", 0, "untrained", 0, 20)
    add_evaluation(run, "eval", 40, "pretrained", 7, 20, success_last=[True] * 3 + [False] * 17, success_steps=[4] * 20)
    (run / "csv/version_0/metrics.csv").unlink()
    (run / "csv/version_0").rmdir()
    write_metrics(run / "csv/version_0", range(60))
    return run


def test_a_killed_run_and_the_same_while_it_runs(half: Path) -> None:
    (half / LOCK).touch()  # which a killed process leaves, and holds no longer
    text = shown(half)
    assert "MOTO on moto_pl/Reach-v0" in text
    sentence = "not running: it ended at 60 of 200 gradient steps; the same moto fit command goes on from its last"
    assert sentence in " ".join(text.split())
    assert "40 of 40 gradient steps" in text and "20 of 160 gradient steps" in text
    assert "5 of 40 collected" in text
    assert "gradient steps that are left" not in text  # nobody is taking them
    figures = text[text.index("latest figures") :].splitlines()
    assert any("model/image" in line and " 441 " in line and " 60" in line for line in figures)  # 500 - 59
    assert any(" 40 " in line and "7 of 20" in line and "3 of 20" in line and "4.0" in line for line in figures)
    with held(half):
        text = shown(half)
        assert "running: 60 of 200" in text and "not running" not in text
        assert "40 s" in text[text.index("gradient steps that are left") :].splitlines()[0]  # 140 / 3.5 a second
    assert "not running" in shown(half)


def test_a_finished_run(tmp_path: Path) -> None:
    text = shown(write_run(tmp_path / "run"))
    assert "finished: all 200 gradient steps are taken" in text and f"{ONLINE} of {ONLINE} gradient steps" in text
    assert "17 of 20" in text


def test_an_empty_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing has been trained here yet" in shown(tmp_path)
    (tmp_path / LOCK).touch()
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "nothing has been trained here yet" in capsys.readouterr().out
    with lock_run(tmp_path):
        assert "running: 0" in shown(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_half_written_line_and_a_run_made_longer(half: Path) -> None:
    with open(half / "csv/version_0/metrics.csv", "a") as file:
        file.write("1,2,3")
    with open(half / "evaluations.jsonl", "a") as file:
        file.write('{"stage": "eval", "st')
    assert "60 of 200" in shown(half)
    config = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(config.replace("online_steps: 160", "online_steps: 20"))
    assert "finished: all 60" in shown(half)


def test_it_writes_nothing(half: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in half.rglob("*")}

    before = state()
    assert main(["watch", str(half), "--once"]) == 0
    assert state() == before


def test_errors_of_others_do_not_steer_the_terminal(half: Path, tmp_path: Path) -> None:
    lines = [f"line {i}" for i in range(30)]
    (half / ERRORS).write_text("\n".join([*lines, "\x1b[2J\x1b]0;evil\x07 [bold]the end[/bold]"]) + "\n")
    config = (half / "config.yaml").read_text().replace("moto_pl/Reach-v0", '"\\e[31mred"')
    (half / "config.yaml").write_text(config)
    text = shown(half)
    assert "\x1b" not in text and "\x07" not in text
    assert "[bold]the end[/bold]" in text and "line 29" in text and "line 21" not in text
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    (half / ERRORS).unlink()
    (half / ERRORS).symlink_to(secret)
    assert "hidden words" not in shown(half)


def test_ages(half: Path) -> None:
    now = 2_000_000_000.0
    for path in half.rglob("*"):
        os.utime(path, (now - 7500, now - 7500))
    os.utime(half / "csv/version_0/metrics.csv", (now - 90, now - 90))
    assert "last written 1 min ago, last checkpoint 2 h 05 min ago" in shown(half, now)


def test_a_narrow_terminal(half: Path) -> None:
    assert max(map(len, shown(half, width=60).splitlines())) <= 60


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nowhere", "--once"], "run: found no directory nowhere"), ([".", "--every", "0"], "--every: found 0")],
)
def test_what_cannot_be_watched_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_it_goes_on_looking_until_ctrl_c(half: Path) -> None:
    command = [sys.executable, "-m", "moto_pl.cli", "watch", str(half), "--every", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(4)
        add_evaluation(half, "eval", 55, "online", 19, 20)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0 and error == "", error
    assert "19 of 20" in out


def test_it_does_not_wait_for_torch() -> None:
    code = "import sys, moto_pl.report.watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_that_begins_is_not_turned_away_by_who_looks(tmp_path: Path) -> None:
    """Asking whether a lock is held takes it for a moment."""
    (tmp_path / LOCK).touch()
    code = "import sys, time; from pathlib import Path; from moto_pl.files import is_held\n"
    code += "print('on', flush=True); end = time.monotonic() + 3\n"
    code += "while time.monotonic() < end: is_held(Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    for _ in range(100):
        with lock_run(tmp_path):
            pass
    assert process.wait() == 0
