"""The evaluations of a run, as its directory holds them: one line of JSON each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moto_pl.reading import parse_json, read_bytes

FILE = "evaluations.jsonl"
#: What a record holds; earlier versions did not write all of it.
RECORD = {
    "stage": str,
    "step": int,
    "phase?": str,
    "online_episodes?": int,
    "seed?": list[int],
    "return?": list[float | int],
    "success?": list[bool],
    "success_last?": list[bool],
    "success_steps?": list[int],
    "length?": list[int],
    "objects?": list[str],
    "completed?": list[list[bool]],
}
#: Evaluation seeds start here and training seeds end below: no evaluation episode is ever trained on.
EVALUATION_SEEDS = 2**30
TEST_SEEDS = EVALUATION_SEEDS + 2**29


def read_evaluations(root: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, by stage and step.

    A resumed run evaluates again what a killed one had evaluated after its last checkpoint: the later record counts. A
    line that a kill cut short is left out.
    """
    path = root / FILE
    records: dict[tuple[str, int], dict[str, Any]] = {}
    for line in read_bytes(path).splitlines() if path.is_file() else []:
        try:
            record = parse_json(line, RECORD)
        except ValueError:
            continue
        records[record["stage"], record["step"]] = record
    return [records[key] for key in sorted(records)]
