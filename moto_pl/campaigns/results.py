"""What is kept of a campaign: rows of its evaluations, its file, and a comparison of each task's methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moto_pl.campaigns.plan import DEFAULT, Campaign, Run
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.files import make_directory, write_whole

#: Columns of ``<results>/<campaign>/<agent>/<task>.csv``: a row is an evaluation of one seed, its numbers are means
#: over the evaluation's episodes; ``wall_seconds`` is the time that the run's processes had taken by then.
COLUMNS = (
    *("setting", "seed", "step", "phase", "online_episodes", "episodes"),
    *("success", "success_last", "success_steps", "objects", "return", "length", "wall_seconds"),
)


def keep_campaign(campaign: Campaign) -> None:
    """Copies the campaign's file to its results."""
    make_directory(campaign.results_dir)
    write_whole(campaign.results_dir / "campaign.yaml", campaign.text.encode())


def rows_path(campaign: Campaign, run: Run) -> Path:
    """The file that a run's rows are kept in."""
    return campaign.results_dir / run.agent / f"{run.task}.csv"


def keep_rows(campaign: Campaign, run: Run) -> Path:
    """Writes a finished run's evaluations among those of its agent and task, in place of what was kept of it before."""
    path = rows_path(campaign, run)
    mine = (run.setting, str(run.seed))
    rows = [row for row in read_rows(path) if (row.get("setting"), row.get("seed")) != mine]
    rows += [{name: str(value) for name, value in row.items()} for row in evaluation_rows(run)]
    rows.sort(key=lambda row: (row["setting"], int(row["seed"]), int(row["step"])))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    make_directory(path.parent)
    write_whole(path, text.getvalue().encode())
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """A file's rows, each with the file's own columns; none where there is no file.

    Raises:
        SettingError: it holds something else.
    """
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        for row in rows:
            int(row["seed"]), int(row["step"]), row["setting"]
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError):
        raise SettingError("results", f"{path}, which holds no campaign's rows", "Move it away.") from None
    return rows


def has_rows(campaign: Campaign, run: Run) -> bool:
    """Whether a run's last evaluation is among the rows."""
    steps = [str(record["step"]) for record in read_evaluations(run.directory) if record["stage"] == "eval"]
    mine = (run.setting, str(run.seed))
    kept = [row["step"] for row in read_rows(rows_path(campaign, run)) if (row["setting"], row["seed"]) == mine]
    return set(steps) <= set(kept)


def evaluation_rows(run: Run) -> list[dict[str, Any]]:
    """A run's evaluations, a row each."""
    seconds = wall_seconds(run.directory / "tensorboard")
    rows = []
    for record in read_evaluations(run.directory):
        if record["stage"] != "eval":
            continue
        # Older records have no success_last and success_steps; tasks without objects no completed.
        row = {"setting": run.setting, "seed": run.seed, "step": record["step"]}
        row |= {name: record.get(name, "") for name in ("phase", "online_episodes")}
        row["episodes"] = len(record.get("seed") or ())
        for name in ("success", "success_last", "success_steps", "return", "length"):
            row[name] = _mean(record.get(name) or ())
        row["objects"] = _mean([sum(episode) for episode in record.get("completed") or ()])
        row["wall_seconds"] = seconds.get(int(record["step"]), "")
        rows.append(row)
    return rows


def _mean(values: Sequence[float]) -> float | str:
    return round(sum(map(float, values)) / len(values), 6) if values else ""


def wall_seconds(directory: Path) -> dict[int, int]:
    """Seconds that a run's processes had taken by its evaluations, by gradient step; empty without TensorBoard's files.

    Each process writes a file of its own: its time goes from that file's beginning to its last entry, so that neither
    pauses between processes nor their imports count. What is done again after a kill counts as often as it is done.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    earlier, found = 0.0, {}
    sessions = [list(_events(LegacyEventFileLoader, path)) for path in directory.glob("events.out.*")]
    for events in sorted(filter(None, sessions), key=lambda events: events[0][0]):
        begun, training = events[0][0], False
        for time, step, name in events:
            training = training or not name.startswith(("eval/", "epoch")) and name != ""
            if name == "eval/return":
                # Logged under the step's index, counted from 0: one more step is taken by then.
                found[step + 1 if training or step else 0] = round(earlier + time - begun)
        earlier += max(time for time, _, _ in events) - begun
    return found


def _events(loader: Any, path: Path) -> Iterable[tuple[float, int, str]]:
    """When, at which step, and what was logged; an entry that a kill cut short ends the file."""
    for event in loader(str(path)).Load():
        for name in [value.tag for value in event.summary.value] or [""]:
            yield event.wall_time, int(event.step), name


def compare(campaign: Campaign, runs: Iterable[Run]) -> list[str]:
    """Compares the methods of each task, as ``moto compare`` does, into ``<results>/<campaign>/compare/<task>``.

    Args:
        campaign: whose results they are.
        runs: those that are finished.

    Returns:
        What kept a task from being compared, a line each.
    """
    from moto_pl.report.compare import run_compare

    runs, said = list(runs), []
    for task in campaign.tasks:
        named = [f"{method(campaign, run)}={run.directory}" for run in runs if run.task == task]
        if not named:
            continue
        print(f"{task}:")
        try:
            run_compare(named, campaign.results_dir / "compare" / task)
        except SettingError as error:
            said.append(f"{task} is not compared: {error}")
    return said


def method(campaign: Campaign, run: Run) -> str:
    """What a run's agent and setting are called together."""
    alone = len(campaign.settings) == 1 and run.setting in campaign.settings
    return run.agent if alone or run.setting == DEFAULT else f"{run.agent}, {run.setting}"
