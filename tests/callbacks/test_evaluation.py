"""Evaluation records."""

from __future__ import annotations

import json
from pathlib import Path

from moto_pl.evaluations import read_evaluations


def test_later_records_count_and_broken_lines_do_not(tmp_path: Path) -> None:
    whole = {"stage": "eval", "seed": [1], "success": [True], "length": [3]}
    lines = [
        json.dumps({**whole, "step": 20, "return": [1.0]}),
        json.dumps({**whole, "step": 10, "return": [2.0]}),
        "3",
        json.dumps({"step": 3}),
        json.dumps({**whole, "step": 20, "return": [5.0]}),
        '{"stage": "eval", "st',
    ]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines))
    assert [(r["step"], r["return"]) for r in read_evaluations(tmp_path)] == [(10, [2.0]), (20, [5.0])]


def test_no_file_is_no_evaluation(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == []
