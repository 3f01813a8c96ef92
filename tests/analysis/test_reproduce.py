"""What has been run is dated, what has not says so."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from moto_pl.analysis import reproduce
from moto_pl.analysis.bound import Moment, bound_finding
from moto_pl.cli import main
from moto_pl.datasets.info import PAPER_RETURNS
from moto_pl.report.output import Finding
from moto_pl.training.launch import run_lightning

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/reproduction"


def cells(out: Path) -> dict[tuple[str, str], list[str]]:
    lines = (out / "reproduce.md").read_text().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in rows}


def test_nothing_was_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--out", str(tmp_path)]) == 0
    found = cells(tmp_path)
    assert len(found) == len(PAPER_RETURNS) + 4 + 2 + 3
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
    assert found["figure6", "least alpha"] == ["-", "not run", "not run"]
    kinds = {path.name for path in (tmp_path / "out/cpu").iterdir()}
    assert kinds == {*(f"figure5.{kind}" for kind in ("png", "svg", "csv", "json")), "figure5.result.json"}


def test_a_result_with_a_note_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu").mkdir()
    result = {"date": "2026-11-23", "ours": {"final predicted reward": 2.5}, "note": "made otherwise"}
    (tmp_path / "cpu/figure5.result.json").write_text(json.dumps(result))
    assert main(["reproduce", "--out", str(tmp_path)]) == 0
    assert "figure5, cpu: made otherwise" in capsys.readouterr().out
    text = (tmp_path / "reproduce.md").read_text()
    assert "| 2.50 (2026-11-23)* |" in text and text.endswith("\n\n\\* figure5, cpu: made otherwise\n")


@pytest.mark.parametrize("kept", ["figure5", "figure6", "table1", "kitchen-data"])
def test_what_is_kept_is_of_this_version(kept: str) -> None:
    """Every quantity that is asked for stands in the kept results, and none that is not."""
    result = json.loads((RESULTS / f"cpu/{kept}.result.json").read_text())
    assert set(result["ours"]) == set(reproduce.PAPER[kept])  # type: ignore[index]


def test_the_kept_figure_6_is_made_of_its_numbers() -> None:
    with open(RESULTS / "cpu/figure6.csv") as file:
        rows = list(csv.DictReader(file))
    moments = [
        Moment(
            *(int(row["step"]), int(row["online_episodes"]), row["phase"] == "online"),
            *(float(row["expert_uncertainty"]), float(row["gap"])),
        )
        for row in rows
    ]
    said = json.loads((RESULTS / "cpu/figure6.json").read_text())
    again = bound_finding(moments, float(rows[0]["gap"]) + float(rows[0]["return"]), "somehow", "partial", 10.0)
    assert said["summary"] == pytest.approx(again.summary)
    numbers = again.caption[again.caption.index("The least alpha") :]
    assert numbers in said["caption"]
    docs = (ROOT / "docs/analyses.md").read_text()
    for value in ("113,482", "-0.95 [-1.00, -0.82], n = 4", "n = 10"):
        assert value in docs
    assert said["summary"]["alpha"] == pytest.approx(113_482, abs=1) and said["summary"]["moments"] == 4
    assert said["summary"]["spearman"] == pytest.approx(-0.95, abs=0.005)


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
