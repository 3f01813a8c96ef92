"""What ends a run stands in its errors.log, where ``moto watch`` finds it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

from moto_pl import signals
from moto_pl.callbacks.errors import ErrorLog
from moto_pl.errors import SettingError
from moto_pl.files import ERRORS
from moto_pl.report.watch import error_lines


def told(run: Path, error: BaseException, world_size: int = 1, rank: int = 0) -> None:
    trainer: Any = SimpleNamespace(default_root_dir=str(run), global_step=12, world_size=world_size, global_rank=rank)
    try:
        raise error
    except BaseException as raised:
        ErrorLog().on_exception(trainer, None, raised)  # type: ignore[arg-type]


def test_an_error_ends_with_when_where_and_what(tmp_path: Path) -> None:
    (tmp_path / ERRORS).write_text("cut sho")  # by a kill
    told(tmp_path, RuntimeError("CUDA\nis gone"))
    lines = error_lines(tmp_path)
    assert lines[-1].endswith(", after gradient step 12: RuntimeError: CUDA is gone") and lines[-1][:2] == "20"
    assert any("raise error" in line for line in lines) and lines[0] == "cut sho"
    told(tmp_path, SettingError("data.env", 1, "Do that."), world_size=2, rank=1)
    assert error_lines(tmp_path)[-1].endswith(
        "after gradient step 12, process 1: SettingError: data.env: found 1. Do that."
    )
    assert sum("Traceback" in line for line in (tmp_path / ERRORS).read_text().splitlines()) == 1


def test_signals_are_no_errors_and_a_disk_that_refuses_hides_nothing(tmp_path: Path) -> None:
    told(tmp_path, signals.Stopped(15))
    told(tmp_path, KeyboardInterrupt())
    assert not (tmp_path / ERRORS).exists()
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / ERRORS).symlink_to(other)
    told(tmp_path, RuntimeError("x"))
    told(tmp_path / "nowhere", RuntimeError("x"))
    assert other.read_text() == "mine"


@pytest.mark.parametrize("count", [0, 3])
def test_a_run_that_fails_says_so(count: int, reach_dataset: Path, tmp_path: Path) -> None:
    """With a real trainer: a callback that fails at the third batch, and none."""
    from moto_pl.cli import main
    from runs import CONFIGS

    run = tmp_path / "run"
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.env_workers", "0")
    short = ("--data.offline_steps", "4", "--data.online_steps", "0", "--data.eval_episodes", "0")
    args = ("--config", str(CONFIGS / "debug.yaml"), "--trainer.default_root_dir", str(run), *data, *short)
    fails = ("--trainer.callbacks+=test_error_log.Fails", "--trainer.callbacks.count", str(count)) if count else ()
    if not count:
        assert main(["fit", *args, "--video_episodes", "0"]) == 0
        assert not (run / ERRORS).exists()
        return
    with pytest.raises(RuntimeError, match="planted"):
        main(["fit", *args, "--video_episodes", "0", *fails])
    assert error_lines(run)[-1].endswith("after gradient step 3: RuntimeError: planted")


class Fails(L.Callback):
    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.count:
            raise RuntimeError("planted")
