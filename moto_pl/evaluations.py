"""The evaluations of a run, as its directory holds them: one line of JSON each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "evaluations.jsonl"
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
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            records[str(record["stage"]), int(record["step"])] = record
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return [records[key] for key in sorted(records)]
