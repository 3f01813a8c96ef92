"""What has been run is dated, what has not says so."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from moto_pl import reproduce
from moto_pl.analysis.output import Finding
from moto_pl.cli import main
from moto_pl.data.info import PAPER_RETURNS
from moto_pl.launch import run_lightning


def cells(out: Path) -> dict[tuple[str, str], list[str]]:
    lines = (out / "reproduce.md").read_text().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in rows}


def test_nothing_was_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--out", str(tmp_path)]) == 0
    found = cells(tmp_path)
    assert len(found) == len(PAPER_RETURNS) + 4 + 2 + 2
    assert all(row[1:] == ["not run", "not run"] for row in found.values())
    assert found["figure5", "final predicted reward"][0] == "3.63" and found["table1", "hammer"][0] == "63.3"
    assert capsys.readouterr().out.count("not run") == 2 * len(found)


def test_what_was_run_stands_beside_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(size: reproduce.Size, runs: Path) -> tuple[Finding, dict[str, float]]:
        assert size == reproduce.SIZES["cpu"] and runs == tmp_path / "runs/cpu"
        finding = Finding("figure5", "A title", "A caption", Figure(), [{"a": 1}], {"a": 1.0})
        return finding, {"final predicted reward": 2.5, "final reward imagined": 3.125}

    monkeypatch.setitem(reproduce.TARGETS, "figure5", fake)
    assert main(["reproduce", "figure5", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 0
    found = cells(tmp_path / "out")
    today = date.today().isoformat()
    assert found["figure5", "final predicted reward"] == ["3.63", f"2.50 ({today})", "not run"]
    assert found["figure6", "alpha"] == ["-", "not run", "not run"]
    kinds = {path.name for path in (tmp_path / "out/cpu").iterdir()}
    assert kinds == {*(f"figure5.{kind}" for kind in ("png", "svg", "csv", "json")), "figure5.result.json"}


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_the_training_run_is_on_data_without_the_whole_task(
    scale: reproduce.Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(reproduce, "ensure", lambda name, **options: built.append((name, options)) or tmp_path / "data")
    seen: list[list[str]] = []
    monkeypatch.setattr(reproduce, "run_lightning", seen.append)
    size = reproduce.SIZES[scale]
    assert reproduce._trained(size, tmp_path) == tmp_path / "partial"
    assert built[0][0] == "kitchen/partial" and "task_share" not in built[0][1]
    with pytest.raises(SystemExit) as stop:
        run_lightning([*seen[0], "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["env"] == "moto_pl/Kitchen-partial-v0" and config["data"]["build_options"] == {}
    assert config["trainer"]["callbacks"][0]["class_path"] == "moto_pl.callbacks.Snapshots"
    assert (config["data"]["offline_steps"] == 10_000) == (scale == "paper")
    built.clear()
    reproduce._whole(size)
    assert built == [
        ("kitchen/partial", {"episodes": size.whole, "task_share": 1.0, "seed": 1000, "output": reproduce.WHOLE})
    ]
