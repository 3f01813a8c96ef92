"""SIGKILL for hours: ``make soak KILLS=1000``, which goes on from the counts in its file.

Runs of the debug configuration are killed again and again, each up to thirty times at random moments of a process's
life, also while it reads what the killed one left. Then the same command ends each run, and the end is compared with
that of an unbroken run bit for bit: weights, averages, optimizer, evaluations, every episode's file. The processes
that are killed start warm (tests/warm.py), which is four kills in the time of one; the process that ends a run is an
interpreter of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from moto_pl.files import write_whole
from soak import Bench, go_on, kill

EMPTY: dict[str, Any] = {"kills": 0, "runs": 0, "other_ends": 0, "episodes_lost": 0, "stood": {}, "problems": []}


def main() -> int:
    """Kills until so many processes have been killed; fails where a bit or an episode is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the counts, written after each run")
    options = parser.parse_args()
    from moto_pl.datasets.builders import build

    kept = dict(EMPTY)
    if options.out is not None:
        with suppress(FileNotFoundError):
            kept |= json.loads(options.out.read_text())
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), Path(directory) / "reach")
        build("reach", output=str(bench.dataset), workers=1)
        os.environ["MOTO_TESTS_COLD"] = "0"  # before the server of warm starts is begun, which is for one environment
        bench.unbroken()
        while kept["kills"] < options.kills:
            kept = one_run(bench, kept, random.Random(f"{options.seed} {kept['runs']}"), options.kills)
            kept["date"] = date.today().isoformat()
            if options.out is not None:
                write_whole(options.out, (json.dumps(kept, indent=1) + "\n").encode())
            counts = ", ".join(f"{name}: {count}" for name, count in kept.items() if isinstance(count, int))
            print(counts, *kept["problems"][-1:], flush=True)
    return int(kept["other_ends"] + kept["episodes_lost"] > 0)


def one_run(bench: Bench, kept: dict[str, Any], rng: random.Random, wanted: int) -> dict[str, Any]:
    """The counts after one more run has been killed and has ended."""
    with tempfile.TemporaryDirectory(dir=bench.root) as directory:
        run = Path(directory) / "run"
        os.environ["MOTO_TESTS_COLD"] = "0"
        stood, gone = kill(bench, run, rng, min(30, wanted - kept["kills"]), longest=rng.choice((0.3, 0.6, 1.1)))
        os.environ["MOTO_TESTS_COLD"] = "1"
        result = go_on(bench, run, "")
    problem = [f"run {kept['runs']}: {result.problem}"] if result.problem else []
    problem += [f"run {kept['runs']}: gone: {', '.join(gone)}"] if gone else []
    return {
        "kills": kept["kills"] + stood.total(),
        "runs": kept["runs"] + 1,
        "other_ends": kept["other_ends"] + (not result.survived),
        "episodes_lost": kept["episodes_lost"] + len(gone) + result.lost,
        "stood": dict(sorted((Counter(kept["stood"]) + stood).items())),
        "problems": kept["problems"] + problem,
    }


if __name__ == "__main__":
    sys.exit(main())
