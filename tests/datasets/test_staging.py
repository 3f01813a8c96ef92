"""What a killed writer of a dataset leaves, and what the next one makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moto_pl.datasets.staging import staged

ROOT = Path(__file__).parents[2]

_WRITER = """
import os, signal, sys, time
from pathlib import Path
from moto_pl.datasets.staging import staged
path, what = Path(sys.argv[1]), sys.argv[2]
if what == "between":
    rename = Path.rename
    def once(self, target):
        result = rename(self, target)
        if str(target).endswith(".old"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    Path.rename = once
with staged(path) as directory:
    (directory / "data").write_text("new")
    print("begun", flush=True)
    if what == "wait":
        time.sleep(600)
"""


def write(path: Path, content: str) -> None:
    with staged(path) as directory:
        (directory / "data").write_text(content)


def start(path: Path, what: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), what], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_a_killed_writer_left_is_removed_and_no_one_elses(tmp_path: Path) -> None:
    killed, working = start(tmp_path / "demo-v0", "wait"), start(tmp_path / "demo-v0", "wait")
    with killed, working:
        killed.kill()
        killed.wait()
        for name in (".other-v0.01234567", ".demo-v0.notes", ".demo-v0.0123456789"):
            (tmp_path / name).mkdir()
        assert len(names(tmp_path)) == 5
        write(tmp_path / "demo-v0", "mine")
        left = names(tmp_path)
        assert len(left) == 5 and (tmp_path / "demo-v0/data").read_text() == "mine"  # the one at work keeps its own
        working.kill()
    write(tmp_path / "demo-v0", "again")
    assert names(tmp_path) == [".demo-v0.0123456789", ".demo-v0.notes", ".other-v0.01234567", "demo-v0"]


def test_one_that_is_killed_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "demo-v0"
    write(path, "old")
    process = start(path, "between")
    with process:
        assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), staged(path):
        assert (path / "data").read_text() == "old"
        raise KeyboardInterrupt
    assert names(tmp_path) == ["demo-v0"] and (path / "data").read_text() == "old"


def test_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "demo-v0", "old")
    with pytest.raises(ValueError, match="no"), staged(tmp_path / "demo-v0") as directory:
        (directory / "data").write_text("new")
        raise ValueError("no")
    assert names(tmp_path) == ["demo-v0"] and (tmp_path / "demo-v0/data").read_text() == "old"
