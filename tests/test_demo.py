"""The demo's table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from moto_pl.demo import summary

ROOT = Path(__file__).parents[1]


def test_the_table_says_whether_the_policy_stays_in_success(tmp_path: Path) -> None:
    def record(step: int, phase: str, **more: Any) -> str:
        of = {"return": [1.0, 2.0, 0.0, 5.0], "success": [True, True, False, True], "length": [9] * 4}
        return json.dumps({"stage": "eval", "step": step, "phase": phase, "online_episodes": step // 10, **of, **more})

    staying = {"success_last": [True, False, False, False], "success_steps": [5, 1, 0, 2]}
    lines = [record(0, "untrained"), record(50, "offline", **staying), record(300, "final", **staying)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines) + "\n")
    table = summary(tmp_path)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["policy"] == ["untrained", "fine-tuned", "cloning only*"]
    # The last is the kept run: seed 0 of docs/results.md's table.
    assert columns["success"] == ["3 of 4", "3 of 4", "19 of 20"]
    assert columns["success at the last step"] == ["-", "1 of 4", "14 of 20"]  # the first is of an older version
    assert columns["steps in success"] == ["-", "2.0", "40.2"]
    assert columns["return"] == ["2.0", "2.0", "40.2"]


def test_the_kept_line_is_that_of_the_kept_rows(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").touch()
    columns = {str(column.header): list(column.cells) for column in summary(tmp_path).columns}
    with (ROOT / "benchmarks/results/ten/cloning_only/drawer-open.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["seed"] == "0" and row["phase"] == "final")
    assert columns["steps"] == [row["step"]] and columns["online episodes"] == [row["online_episodes"]]
    assert columns["success"] == [f"{float(row['success']) * 20:.0f} of 20"]
    assert columns["success at the last step"] == [f"{float(row['success_last']) * 20:.0f} of 20"]
    assert columns["steps in success"] == [f"{float(row['success_steps']):.1f}"]
