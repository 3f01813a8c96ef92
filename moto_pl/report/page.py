"""``moto report``: one HTML page that says how a run went, and opens without a network."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moto_pl.errors import SettingError
from moto_pl.files import LOCK, bytes_text, file_status, is_held, write_whole
from moto_pl.reading import parse_json, read_bytes
from moto_pl.report.charts import comparison_figure
from moto_pl.report.compare import comparison_view
from moto_pl.report.comparison import Comparison, compare_runs
from moto_pl.report.html import number, render_page
from moto_pl.report.metric_charts import WINDOW, online_charts, parallel_envs, speed_charts, training_charts
from moto_pl.report.output import DIRECTORY as ANALYSES
from moto_pl.report.records import RunRecord, read_run
from moto_pl.report.results import PHASES, evaluation_curves, results, staying
from moto_pl.report.videos import MAX_VIDEO_BYTES, videos

FILE = "report.html"


def write_report(run: Path, against: Sequence[Path] = ()) -> Path:
    """Writes ``<run>/report.html``, whole under another name first, and returns its path.

    Args:
        run: directory of a run, finished or in progress; what is missing is said in the page.
        against: runs to compare it with, in a section of its own.

    Raises:
        SettingError: where a directory holds no run, the runs cannot be compared, or the page cannot be written.
    """
    run = Path(run)
    comparison = compare_runs([(None, path) for path in (run, *against)]) if against else None
    page = render(read_run(run), comparison)
    path = run / FILE
    try:
        write_whole(path, page.encode())
    except OSError as error:
        found = f"{path}, which could not be written ({error.strerror})"
        raise SettingError("run", found, "Free disk space, or allow writing there.") from None
    return path


class Live(NamedTuple):
    """A page that is written again and again; both in whole seconds, ``written`` since 1970."""

    written: int
    every: int


def _live(record: RunRecord) -> Live | None:
    """Whether another page will follow: the run's process lives, and its ``report_every`` asks for more of them."""
    minutes = record.setting("report_every")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < 1e6:
        return None
    return Live(int(time.time()), max(1, round(60 * minutes))) if is_held(record.root / LOCK) else None


def render(record: RunRecord, comparison: Comparison | None = None) -> str:
    """The page as a string; with a ``comparison``, that is a section of it."""
    analyses, broken = _analyses(record)
    films = videos(record)  # first, as it may find some missing
    seed = record.setting("seed_everything")
    return render_page(
        "report.html",
        _title(record),
        root=str(record.root.resolve()),
        written=_written(record),
        seed=None if seed is None else str(seed),
        verdict=verdict(record),
        missing=[*record.missing, *broken, *_not_finite(record)],
        results=results(record),
        curves=evaluation_curves(record) + online_charts(record),
        comparison=comparison and comparison_view(comparison, comparison_figure(comparison)),
        training=training_charts(record),
        analyses=analyses,
        videos=films,
        data=_data(record),
        speeds=_speeds(record),
        speed_charts=speed_charts(record),
        config=record.config_text,
        files=_files(record),
        live=_live(record),  # last: a run may end while this is drawn
    )


# Head of the page.


def verdict(record: RunRecord) -> str:
    """The run in one line: successes now, after pre-training and untrained."""
    steps = record.steps
    progress = ""
    if record.schedule is not None and steps < record.schedule.total_steps:
        progress = f" The run stands at {steps:,} of {record.schedule.total_steps:,} gradient steps."
    evaluations = [e for e in record.evaluations if e.stage == "eval"]
    tests = [e for e in record.evaluations if e.stage == "test"]
    parts = []
    if evaluations:
        last = evaluations[-1]
        when = PHASES.get(last.phase, last.phase)
        if last.phase in ("offline", "online"):
            when += f" ({last.step:,} gradient steps)"
        parts.append(f"Success {last.successes} of {last.episodes} {when}{staying(last)}")
        for phase in ("pretrained", "untrained"):
            earlier = [e for e in evaluations[:-1] if e.phase == phase]
            parts += [f"{e.successes} of {e.episodes} {PHASES[phase]}" for e in earlier]
    if tests:
        last = tests[-1]
        when = f"on the test seeds after {last.step:,} gradient steps"
        parts.append(f"{last.successes} of {last.episodes} {when}{staying(last)}")
    return ("; ".join(parts) + "." if parts else "Nothing has been evaluated yet.") + progress


def _agent(record: RunRecord) -> str:
    path = record.setting("model", "class_path")
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else ""


def _title(record: RunRecord) -> str:
    env = record.setting("data", "env")
    name = record.root.resolve().name
    return f"{_agent(record) or 'Run'} on {env}" if env else f"{_agent(record) or 'Run'} {name}".strip()


def _written(record: RunRecord) -> str:
    """From when to when the run's files were written."""
    found = [file_status(path) for path in record.root.rglob("*") if path.name != FILE]
    times = [status.st_mtime for status in found if status is not None]
    first, last = (datetime.fromtimestamp(of(times, default=0)).strftime("%Y-%m-%d %H:%M") for of in (min, max))
    return last if first == last else f"{first} to {last.removeprefix(first[:11])}"


def _not_finite(record: RunRecord) -> list[str]:
    """A sentence for each metric that was not always a number."""
    notes = []
    for name, series in record.metrics.items():
        bad = ~np.isfinite(series.value)
        if bad.any():
            first = series.step[bad][0]
            notes.append(f"{name} is not finite in {bad.sum():,} rows, first after {first:,} gradient steps.")
    return notes


# Analyses.


class Analysis(NamedTuple):
    """A picture that ``moto analyze`` left in the run; ``image`` is a PNG in base64."""

    title: str
    caption: str
    date: str
    image: str


def _analyses(record: RunRecord) -> tuple[list[Analysis], list[str]]:
    """The run's analyses, and a sentence for each that is not whole."""
    found, broken = [], []
    for path in sorted((record.root / ANALYSES).glob("*.json")):
        try:
            said = parse_json(read_bytes(path, MAX_VIDEO_BYTES, record.root), dict)
            title, caption, date = (str(said[name]) for name in ("title", "caption", "date"))
            image = base64.b64encode(read_bytes(path.with_suffix(".png"), MAX_VIDEO_BYTES, record.root)).decode()
        except (OSError, ValueError, KeyError, TypeError):
            broken.append(f"{path.relative_to(record.root)} is not whole and was left out.")
            continue
        found.append(Analysis(title, caption, date, image))
    return found, broken


# Data, throughput, files.


def _data(record: RunRecord) -> list[tuple[str, str]]:
    episodes = _sizes((record.root / "replay").glob("*.safetensors"))
    held_out = list((record.root / "replay" / "held_out").glob("*.safetensors"))
    demonstrations = record.dataset.get("episodes")
    online = max((e.online_episodes for e in record.evaluations), default=0)
    rounds = record.metrics.get("online/success")
    if rounds is not None:
        online = max(online, len(rounds.value) * parallel_envs(record))
    rows = [
        ("Environment", record.setting("data", "env") or "unknown"),
        ("Demonstrations from", record.dataset.get("dataset") or record.setting("data", "dataset") or "no dataset"),
        ("Demonstrations trained on", demonstrations if demonstrations is not None else "not taken in"),
        ("Demonstrations held out", len(held_out)),
        ("Online episodes", f"{online:,}"),
    ]
    if rounds is not None:
        last = rounds.value[-math.ceil(WINDOW / parallel_envs(record)) :]
        text = f"{rounds.value.mean():.0%} of all, {last.mean():.0%} of the last {len(last) * parallel_envs(record)}"
        rows.append(("Online success", text))
    at_last = record.metrics.get("online/success_last")
    if at_last is not None:
        rows.append(("Online success at the last step", f"{at_last.value.mean():.0%} of all"))
    rows.append(("Replay", f"{len(episodes):,} episodes, {bytes_text(sum(episodes))}"))
    return [(name, str(value)) for name, value in rows]


def _sizes(paths: Iterable[Path]) -> list[int]:
    """Bytes of each of the paths that is a file."""
    found = [file_status(path) for path in paths]
    return [status.st_size for status in found if status is not None]


class Speed(NamedTuple):
    """A row of the throughput's table: numbers in words."""

    label: str
    median: str
    least: str
    most: str
    rounds: int


def _speeds(record: RunRecord) -> list[Speed]:
    rows = []
    for name, label, form in (
        ("updates_per_s", "Gradient steps per second", number),
        ("env_steps_per_s", "Environment steps per second", number),
        ("data_wait", "Waiting for data", "{:.1%}".format),
    ):
        series = record.metrics.get(f"speed/{name}")
        if series is not None:
            median, least, most = (form(float(of(series.value))) for of in (np.median, np.min, np.max))
            rows.append(Speed(label, median, least, most, len(series.value)))
    return rows


class File(NamedTuple):
    """A file or directory of the run; ``path`` is within it, ``size`` in bytes."""

    path: str
    what: str
    size: int
    is_checkpoint: bool


CHECKPOINTS = {
    "last.ckpt": "newest checkpoint; the run goes on from it",
    "previous.ckpt": "the one before it",
    "best.ckpt": "the one that did best in an evaluation",
    "pretrained.ckpt": "end of pre-training",
}
OTHER_FILES = {
    "config.yaml": "all settings",
    "evaluations.jsonl": "each evaluation, episode by episode",
    "csv": "training metrics as tables",
    "tensorboard": "the same for TensorBoard",
    "replay": "all episodes",
    "videos": "all videos",
}


def _files(record: RunRecord) -> list[File]:
    rows = []
    for path in sorted((record.root / "checkpoints").glob("*.ckpt")):
        name = path.relative_to(record.root).as_posix()
        what = CHECKPOINTS.get(path.name, "checkpoint")
        rows += [File(name, what, size, True) for size in _sizes([path])]
    for name, what in OTHER_FILES.items():
        path = record.root / name
        if path.exists():
            rows.append(File(name, what, sum(_sizes(path.rglob("*") if path.is_dir() else [path])), False))
    return rows
