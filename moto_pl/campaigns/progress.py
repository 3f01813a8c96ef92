"""How far a campaign's runs are: read from their directories, and from the little that the campaign notes itself."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from moto_pl.campaigns.plan import Run
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.files import write_whole
from moto_pl.reading import MAX_YAML, parse_yaml, read_text
from moto_pl.report.records import is_training_metric

STATE = "campaign.json"
_TAIL = 1 << 16  # bytes of a metrics file that are looked at


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: gradient steps that are known to be taken.
        updates_per_s: gradient steps a second, as last logged.
        success: share of the last evaluation's episodes.
        evaluated: the gradient step of that evaluation.
    """

    step: int = 0
    updates_per_s: float | None = None
    success: float | None = None
    evaluated: int | None = None


def read_progress(directory: Path) -> Progress:
    """What a run's directory says, at any moment; cheap enough to be asked every second."""
    step, speed = _last_metrics(directory / "csv")
    evaluations = [record for record in read_evaluations(directory) if record["stage"] == "eval"]
    if not evaluations:
        return Progress(step, speed)
    last = evaluations[-1]
    wins = last.get("success") or []
    success = sum(map(bool, wins)) / len(wins) if wins else None
    return Progress(max(step, int(last["step"])), speed, success, int(last["step"]))


def is_finished(directory: Path, total_steps: int, evaluates: bool) -> bool:
    """Whether a run has taken all its steps, evaluated after the last, and kept its weights."""
    if evaluates and (read_progress(directory).evaluated or 0) < total_steps:
        return False
    return checkpoint_step(directory / "checkpoints" / "last.ckpt") >= total_steps


def checkpoint_step(path: Path) -> int:
    """Gradient steps of a checkpoint; 0 where there is none that can be read. Its tensors are not read."""
    import torch

    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # torch raises many kinds for a damaged archive
        return 0


def planned_steps(directory: Path) -> tuple[int, bool] | None:
    """Gradient steps of a run and whether it evaluates, as its own ``config.yaml`` says; None where there is none."""
    from moto_pl.schedule import Schedule

    try:
        data = parse_yaml(read_text(directory / "config.yaml", MAX_YAML))["data"]
        return Schedule.of(data).total_steps, int(data["eval_episodes"]) > 0
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _last_metrics(directory: Path) -> tuple[int, float | None]:
    """The newest step and speed in ``csv/version_*/metrics.csv``."""
    paths = directory.glob("version_*/metrics.csv")
    for path in sorted(paths, key=lambda path: (len(path.parent.name), path), reverse=True):
        rows = _last_rows(path)
        # `moto validate` and `moto test` open versions too, which train nothing.
        if any(map(is_training_metric, rows.fieldnames or ())):
            return _step_and_speed(rows)
    return 0, None


def _last_rows(path: Path) -> csv.DictReader[str]:
    """The rows at the end of one file, as far as they are whole; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            header = file.readline()
            file.seek(max(len(header), file.seek(0, 2) - _TAIL))
            tail = file.read()
    except OSError:
        return csv.DictReader([])
    lines = tail[: tail.rfind(b"\n") + 1].splitlines()
    return csv.DictReader(line.decode(errors="replace") for line in (header, *lines))


def _step_and_speed(rows: csv.DictReader[str]) -> tuple[int, float | None]:
    step, speed = 0, None
    for row in rows:
        try:
            step = max(step, int(row.get("step") or -1) + 1)
            speed = float(row.get("speed/updates_per_s") or "")
        except ValueError:  # a column without value, or a line that the tail cuts
            continue
    return step, speed


@dataclass
class Note:
    """What a campaign notes of a run that is not finished.

    Attributes:
        failures: attempts that ended badly.
        error: how the last of them ended.
        given_up: whether it is not taken up again.
        job: its job's id on a cluster, while it has one.
    """

    failures: int = 0
    error: str = ""
    given_up: bool = False
    job: str | None = None


class State:
    """The notes of a campaign, in ``campaign.json`` in the directory of its runs: written whole as they change.

    Args:
        root: that directory.

    Raises:
        SettingError: a file that is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / STATE
        self._notes: dict[str, Note] = {}
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text())
                self._notes = {name: Note(**note) for name, note in content.items()}
            except (ValueError, TypeError, AttributeError):
                fix = "Delete it: all that it holds is how often runs failed."
                raise SettingError("runs", f"{self._path}, which cannot be read", fix) from None

    def __getitem__(self, run: Run) -> Note:
        return self._notes.setdefault(run.name, Note())

    def forget(self, run: Run) -> None:
        """Drops the note of a run."""
        self._notes.pop(run.name, None)

    def save(self) -> None:
        """Writes them.

        Raises:
            OSError: where that is impossible.
        """
        notes = {name: asdict(note) for name, note in sorted(self._notes.items()) if note != Note()}
        write_whole(self._path, json.dumps(notes, indent=1).encode() + b"\n")
