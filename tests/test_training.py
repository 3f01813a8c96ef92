from pathlib import Path

import pytest
from runs import command

from moto_pl.cli import main
from moto_pl.training import MotoCLI


@pytest.mark.parametrize(("value", "calls"), [("true", 1), ("false", 0), (None, 1)])
def test_keep_memory(value: str | None, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting rules the allocator, before the first step."""
    events: list[str] = []
    monkeypatch.setattr("moto_pl.training.keep_freed_memory", lambda: events.append("kept"))
    monkeypatch.setattr(MotoCLI, "_fit", lambda *_: events.append("fitted"))
    args = () if value is None else ("--keep_memory", value)
    assert main(command(tmp_path / "run", "--data.dataset", "none", "--trainer.accelerator", "cpu", *args)[3:]) == 0
    assert events == ["kept"] * calls + ["fitted"]
