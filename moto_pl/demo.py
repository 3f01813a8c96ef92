"""``moto demo``: the whole method on one task, on a laptop's CPU."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moto_pl.analysis.statistics import wilson_interval
from moto_pl.configs import config_path
from moto_pl.evaluations import read_evaluations
from moto_pl.launch import run_lightning

#: Phases that the table shows, and what each has had.
_PHASES = {
    "untrained": "untrained",
    "pretrained": "pre-trained",
    "final": "fine-tuned",
}


def run_demo(directory: Path) -> int:
    """Trains as ``configs/demo.yaml`` says, prints what each phase added, and writes the report.

    Args:
        directory: the run's directory; a run that was interrupted goes on.

    Returns:
        The exit status, 0.
    """
    from moto_pl.report import write_report

    console = Console()
    begun = time.monotonic()
    run_lightning(["fit", "--config", str(config_path("demo")), "--trainer.default_root_dir", str(directory)])
    console.print(summary(directory))
    console.print(f"report: {write_report(directory)}")
    console.print(f"time: {(time.monotonic() - begun) / 60:.1f} minutes")
    return 0


def summary(directory: Path) -> Table:
    """What the policy did on the same evaluation episodes after each phase."""
    table = Table(title="MOTO on MetaWorld, from ten demonstrations")
    for name in ("policy", "steps", "online episodes", "success", "95% interval", "return"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for record in read_evaluations(directory):
        if record["stage"] != "eval" or record["phase"] not in _PHASES:
            continue
        count, wins = len(record["success"]), sum(record["success"])
        low, high = wilson_interval(wins, count)
        table.add_row(
            _PHASES[record["phase"]],
            str(record["step"]),
            str(record["online_episodes"]),
            f"{wins} of {count}",
            f"{low:.0%} to {high:.0%}",
            f"{sum(record['return']) / count:.1f}",
        )
    return table
