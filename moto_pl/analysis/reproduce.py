"""``moto reproduce``: the paper's tables and figures, each by one command, and a page that says what has been run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from moto_pl.agents.loading import load_agent
from moto_pl.analysis.bound import find_bound
from moto_pl.analysis.episodes import load_episodes, model_based, roll_own
from moto_pl.analysis.generalization import find_generalization
from moto_pl.checkpoints import PRETRAINED
from moto_pl.datasets.builders import ensure
from moto_pl.datasets.info import PAPER_KITCHEN, PAPER_RETURNS, dataset_numbers
from moto_pl.datasets.minari_io import DatasetReader
from moto_pl.envs import KITCHEN_TASKS
from moto_pl.files import check_can_write, write_whole
from moto_pl.reading import read_json
from moto_pl.report.charts import COLOURS, charts_style
from moto_pl.report.output import Finding, write_finding
from moto_pl.training.configs import config_path
from moto_pl.training.launch import run_lightning

Target = Literal["table1", "kitchen-data", "figure5", "figure6"]
Scale = Literal["cpu", "paper"]


class Size(NamedTuple):
    """How much of the paper's work is done.

    Attributes:
        metaworld_episodes: demonstrations of each MetaWorld task.
        kitchen_episodes: of each kitchen dataset.
        size: of the kitchen training (``--size``).
        whole: demonstrations of all four objects, for the analyses.
        settings: further arguments of the training.
        samples: rolls of each episode.
        real: episodes of the policy in its environment.
    """

    metaworld_episodes: int
    kitchen_episodes: int
    size: Scale
    whole: int
    settings: tuple[str, ...]
    samples: int
    real: int


SIZES: dict[Scale, Size] = {
    "cpu": Size(
        *(10, 20, "cpu", 4),
        settings=("--data.eval_episodes", "5", "--data.eval_every", "150", "--video_episodes", "0"),
        samples=5,
        real=3,
    ),
    "paper": Size(10, 563, "paper", 50, settings=("--data.eval_every", "3000"), samples=10, real=50),
}

#: What the paper found, by target and quantity.
PAPER: dict[Target, dict[str, float | None]] = {
    "table1": dict(PAPER_RETURNS),
    "kitchen-data": {
        f"{kind} {name}": PAPER_KITCHEN[key]
        for kind in ("mixed", "partial")
        for name, key in (("mean return", "mean_return"), ("objects an episode", "mean_objects"))
    },
    "figure5": {"final predicted reward": 3.63, "final reward imagined": 3.52},
    # The paper shows points alone.
    "figure6": {"least alpha": None, "spearman, online phase": None, "spearman, all moments": None},
}


def run_reproduce(target: Target | None, scale: Scale, out: Path, runs: Path) -> int:
    """Runs a target, or none, and prints what has been run beside the paper's numbers.

    See :func:`moto_pl.cli.reproduce`. Pictures, numbers and ``reproduce.md`` are written to ``out``; the training run
    of the figures, in ``runs``, is gone on with, or used again.
    """
    check_can_write("--out", out)
    if target is not None:
        check_can_write("--runs", runs)
        finding, ours = TARGETS[target](SIZES[scale], runs / scale)
        write_finding(finding, out / scale)
        print(finding.caption)
        result = json.dumps({"date": date.today().isoformat(), "ours": ours}, indent=1)
        write_whole(out / scale / f"{target}.result.json", result.encode())
    table, lines = _summary(out)
    Console().print(table)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "reproduce.md", ("\n".join(lines) + "\n").encode())
    return 0


def _summary(out: Path) -> tuple[Table, list[str]]:
    """Every cell that the paper has, ours beside it where it was run.

    A ``note`` in a result's file, written by hand when what it was made with has changed since, is shown below.
    """
    notes: list[str] = []
    columns = ("target", "quantity", "paper", "ours, cpu", "ours, paper's size")
    table, lines = Table(title="moto reproduce"), ["| " + " | ".join(columns) + " |", "|---|---|---:|---:|---:|"]
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right", no_wrap=name in columns[:2])
    for target, quantities in PAPER.items():
        found = {scale: _read(out / scale / f"{target}.result.json") for scale in SIZES}
        for quantity, paper in quantities.items():
            cells = [target, quantity, "-" if paper is None else f"{paper:g}"]
            for scale in SIZES:
                ours = found[scale].get("ours", {}).get(quantity)
                mark = "*" if found[scale].get("note") else ""
                cells.append("not run" if ours is None else f"{ours:.2f} ({found[scale]['date']}){mark}")
            table.add_row(*cells)
            lines.append("| " + " | ".join(cells) + " |")
        notes += [f"* {target}, {scale}: {of['note']}" for scale, of in found.items() if of.get("note")]
    table.caption = "\n".join(notes) or None
    return table, lines + [line for note in notes for line in ("", note.replace("*", "\\*", 1))]


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(path, dict)
    except (OSError, ValueError):
        return {}
    return content


# Data.


def _table1(size: Size, runs: Path) -> tuple[Finding, dict[str, float]]:
    rows, ours = [], {}
    for task, paper in PAPER_RETURNS.items():
        episodes = size.metaworld_episodes
        numbers = dataset_numbers(DatasetReader(ensure(f"metaworld/{task}", episodes=episodes)))
        ours[task] = float(numbers["mean_return"])
        rows.append(
            {
                "task": task,
                "trajectories": numbers["trajectories"],
                "transitions": numbers["transitions"],
                "success": numbers["success_rate"],
                "mean_return": ours[task],
                "paper_mean_return": paper,
            }
        )
    caption = (
        f"Mean return of {size.metaworld_episodes} scripted demonstrations of each task, all of them successes, beside "
        "the paper's Table 1. The simulator's tasks are of a later version, and so are their scripts: returns differ, "
        "transitions and success do not."
    )
    figure = _bars({"mean return": (list(ours), list(ours.values()), list(PAPER_RETURNS.values()))})
    return Finding("table1", "Table 1: MetaWorld demonstrations", caption, figure, rows, ours), ours


def _kitchen_data(size: Size, runs: Path) -> tuple[Finding, dict[str, float]]:
    rows, ours = [], {}
    for kind in ("mixed", "partial"):
        numbers = dataset_numbers(DatasetReader(_kitchen_dataset(kind, size)))
        ours[f"{kind} mean return"] = float(numbers["mean_return"])
        ours[f"{kind} objects an episode"] = float(numbers["mean_objects"])
        wanted = ("trajectories", "transitions", "mean_return", "mean_objects", "success_rate")
        rows.append({"dataset": kind, **{name: numbers[name] for name in wanted}})
    rows.append({"dataset": "paper", **PAPER_KITCHEN, "success_rate": None})
    caption = (
        f"{size.kitchen_episodes} scripted episodes of each kitchen dataset beside the paper's 563 human "
        "demonstrations. The reward counts the task's own objects at each of 280 steps; the paper's episodes are "
        "shorter. No episode of partial completes the task's four."
    )
    kinds = ["mixed", "partial"]
    panels = {
        quantity: (kinds, [ours[f"{kind} {quantity}"] for kind in kinds], [PAPER_KITCHEN[key]] * 2)
        for quantity, key in (("mean return", "mean_return"), ("objects an episode", "mean_objects"))
    }
    figure = _bars(panels)
    return Finding("kitchen-data", "Kitchen demonstrations", caption, figure, rows, ours), ours


def _kitchen_dataset(kind: str, size: Size) -> Path:
    output = f"moto_pl/kitchen/{kind}-{'small' if size.kitchen_episodes == 20 else 'reproduce'}-v0"
    return ensure(f"kitchen/{kind}", episodes=size.kitchen_episodes, order="canonical", output=output)


def _bars(panels: Mapping[str, tuple[list[str], list[float], list[float]]]) -> Figure:
    """Ours beside the paper's: by quantity, names, our values and the paper's."""
    with charts_style():
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        for axes, (quantity, (names, ours, paper)) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            place = np.arange(len(names))
            for offset, label, values, colour in ((-0.2, "ours", ours, COLOURS[0]), (0.2, "paper", paper, COLOURS[5])):
                bars = axes.bar(place + offset, values, 0.4, color=colour, label=label)
                axes.bar_label(bars, fmt="{:.3g}", fontsize=8)
            tilted = {"rotation": 30, "ha": "right"} if len(names) > 4 else {}
            axes.set_xticks(place, names, **tilted)
            axes.set_ylabel(quantity)
            axes.margins(y=0.12)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


# Figures: one training run on data without a whole task, and demonstrations of the whole.


def _trained(size: Size, runs: Path) -> Path:
    """The run on kitchen ``partial``, trained to its end, with snapshots."""
    run = runs / "partial"
    arguments = ["--config", str(config_path("tasks/kitchen/partial")), "--size", size.size]
    arguments += ["--trainer.default_root_dir", str(run), "--data.dataset", str(_kitchen_dataset("partial", size))]
    arguments += ["--data.build_missing", "false", "--data.build_options", "{}"]
    run_lightning(["fit", *arguments, "--trainer.callbacks+=moto_pl.callbacks.Snapshots", *size.settings])
    return run


def _whole(size: Size) -> str:
    """Demonstrations of the partial task's four objects, which are in no training data."""
    ensure("kitchen/partial", episodes=size.whole, task_share=1.0, seed=1000, output=WHOLE)
    return WHOLE


WHOLE = "moto_pl/kitchen/partial-whole-v0"


def _figure5(size: Size, runs: Path) -> tuple[Finding, dict[str, float]]:
    whole = load_episodes(_whole(size), size.whole)
    run = _trained(size, runs)
    # The paper's figure is of the end of pre-training: nothing but the data without the whole task was seen by then.
    agent = model_based(load_agent(run / "checkpoints" / PRETRAINED))
    # Those of the whole task are predicted; the probe learns from the others too.
    others = load_episodes(str(_kitchen_dataset("partial", size)), size.kitchen_episodes)
    own = roll_own(agent, run, size.real)
    name = "a scripted arm that completes the four objects"
    finding = find_generalization(agent, [*whole, *others], own, name, KITCHEN_TASKS["partial"], 3.0, size.samples)
    ours = {
        "final predicted reward": finding.summary["final_predicted_reward"],
        "final reward imagined": finding.summary["imagined_final_reward"],
    }
    return finding._replace(name="figure5"), ours


def _figure6(size: Size, runs: Path) -> tuple[Finding, dict[str, float]]:
    whole = load_episodes(_whole(size), size.whole)
    finding = find_bound(_trained(size, runs), whole, "a scripted arm that completes the four objects")
    ours = {
        "least alpha": finding.summary["alpha"],
        "spearman, online phase": finding.summary["spearman"],
        "spearman, all moments": finding.summary["spearman_all"],
    }
    return finding._replace(name="figure6"), ours


TARGETS: dict[Target, Callable[[Size, Path], tuple[Finding, dict[str, float]]]] = {
    "table1": _table1,
    "kitchen-data": _kitchen_data,
    "figure5": _figure5,
    "figure6": _figure6,
}
