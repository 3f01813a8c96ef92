"""``moto demo``: the whole method on one task, on a laptop's CPU."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moto_pl.files import check_can_write
from moto_pl.report.records import Evaluation, read_run
from moto_pl.report.statistics import wilson_interval
from moto_pl.training.configs import config_path
from moto_pl.training.launch import run_lightning

#: Phases that the table shows, and what each has had.
_PHASES = {
    "untrained": "untrained",
    "pretrained": "pre-trained",
    "final": "fine-tuned",
    "cloning only": "cloning only*",
}
#: Of the run below, on 2026-11-28: for each of the 20 episodes the steps in success, and whether its last one is.
_KEPT_STEPS = (53, 58, 51, 0, 48, 8, 54, 42, 17, 54, 57, 17, 55, 54, 55, 48, 50, 18, 16, 50)
_KEPT_LAST = (1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1)
#: What the same run comes to where the actor only clones.
_CLONING_ONLY = Evaluation(
    *("eval", 1800, "cloning only", 150),
    returns=[float(count) for count in _KEPT_STEPS],
    success=[count > 0 for count in _KEPT_STEPS],
    length=[101] * len(_KEPT_STEPS),
    success_last=tuple(map(bool, _KEPT_LAST)),
    success_steps=_KEPT_STEPS,
)
_CAPTION = """*without the value, kept from 2026-11-28; to make it again:
moto fit --config configs/demo.yaml --model.init_args.behaviour.value_scale 0"""


def run_demo(directory: Path) -> int:
    """Trains as ``configs/demo.yaml`` says, prints what each phase added, and writes the report.

    See :func:`moto_pl.cli.demo`.

    Returns:
        The exit status, 0.
    """
    from moto_pl.report.page import write_report

    check_can_write("--dir", directory)
    console = Console()
    begun = time.monotonic()
    run_lightning(["fit", "--config", str(config_path("demo")), "--trainer.default_root_dir", str(directory)])
    console.print(summary(directory))
    console.print(f"report: {write_report(directory)}")
    console.print(f"time: {(time.monotonic() - begun) / 60:.1f} minutes")
    return 0


def summary(directory: Path) -> Table:
    """What the policy did on the same evaluation episodes after each phase, and what cloning alone comes to."""
    table = Table(title="MOTO on MetaWorld, from ten demonstrations", caption=_CAPTION)
    for name in (
        *("policy", "steps", "online episodes", "success", "95% interval"),
        *("success at the last step", "steps in success", "return"),
    ):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for evaluation in (*read_run(directory).evaluations, _CLONING_ONLY):
        if evaluation.stage != "eval" or evaluation.phase not in _PHASES:
            continue
        low, high = wilson_interval(evaluation.successes, evaluation.episodes)
        table.add_row(
            _PHASES[evaluation.phase],
            str(evaluation.step),
            str(evaluation.online_episodes),
            f"{evaluation.successes} of {evaluation.episodes}",
            f"{low:.0%} to {high:.0%}",
            *evaluation.cells(),
        )
    return table
