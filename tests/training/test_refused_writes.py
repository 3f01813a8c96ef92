"""Where a run may not write, it says so in a line, and the same command goes on once it may."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from moto_pl.cli import main
from runs import command

SHORT = ("--data.offline_steps", "2", "--data.online_steps", "0", "--data.eval_episodes", "0")


@pytest.mark.parametrize("name", [".lock", ".config.yaml.tmp", "version_0"])
def test_a_place_without_permission(
    name: str, reach_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: list[str] = []

    def but_for_one(patch: pytest.MonkeyPatch, function: str) -> None:
        real = getattr(os, function)

        def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and Path(os.fsdecode(path)).name in (name, f".{name}.tmp"):
                refused.append(os.fsdecode(path))
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
            return real(path, *args, **kwargs)

        patch.setattr(os, function, watched)

    run = tmp_path / "run"
    words = command(run, "--data.dataset", str(reach_dataset), "--data.build_missing", "false", *SHORT)[3:]
    with monkeypatch.context() as patch:
        but_for_one(patch, "open")
        but_for_one(patch, "mkdir")
        assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert refused and lines[-1].startswith("moto: ") and "Permission denied" in lines[-1]
    assert refused[0] in lines[-1] and not any("PermissionError" in line for line in lines)
    if name == "version_0":  # the last of them: all that comes before it is there already
        assert main(words) == 0 and (run / "checkpoints/last.ckpt").exists()
