"""``moto watch``: a run seen from another terminal. It reads the run's files, and writes none."""

from __future__ import annotations

import signal
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from moto_pl import signals
from moto_pl.errors import SettingError
from moto_pl.files import ERRORS, LOCK, file_status, is_held
from moto_pl.reading import open_regular
from moto_pl.report.html import duration
from moto_pl.report.records import Evaluation, RunRecord, read_run
from moto_pl.schedule import Schedule

EVALUATIONS = 8
"""The newest evaluations that are shown."""
ERROR_LINES = 8
"""The last lines of errors that are shown."""
_TAIL = 1 << 14  # bytes of a log's end that are read for them
#: The figures that are shown, where a run has them: what tells soonest that one goes wrong.
_FIGURES = (
    *("loss", "model/image", "model/reward", "model/kl", "critic/model", "critic/real", "actor/value", "actor/clone"),
    *("actor/entropy", "imagined/reward", "imagined/penalty", "held_out/model/image"),
    *("online/return", "online/success", "online/success_last"),
)
_SPEEDS = {
    "speed/updates_per_s": ("gradient steps a second", "{:.2f}"),
    "speed/env_steps_per_s": ("environment steps a second", "{:.1f}"),
    "speed/data_wait": ("waiting for data", "{:.1%}"),
}


class State(NamedTuple):
    """What becomes of a run at this moment.

    Attributes:
        word: ``running``, ``finished``, ``not running`` or ``empty``.
        sentence: the same for people, with what to do.
        style: its colour.
    """

    word: str
    sentence: str
    style: str


def run_watch(run: Path, every: float, once: bool) -> int:
    """Shows a run until Ctrl-C, or once; see :func:`moto_pl.cli.watch`.

    Raises:
        SettingError: there is no such directory, or it holds something else than a run.
    """
    if not 0.5 <= every < float("inf"):
        raise SettingError("--every", every, "Give seconds, 0.5 or more.")
    console = Console()
    first = view(run, read(run), time.time())  # which refuses what is no run, before a screen is taken
    if once:
        console.print(first)
        return 0
    try:
        # On a screen of its own, so that the shell is as it was afterwards.
        with Live(_shown(run), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(_shown(run), refresh=True)
    except signals.Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise
    return 0


def _shown(run: Path) -> RenderableType:
    """The view; of a run that is just then moved aside or removed, what cannot be read."""
    try:
        return view(run, read(run), time.time())
    except SettingError as error:
        return Text(str(error), "red")


def read(run: Path) -> RunRecord:
    """A run's record; an empty one of a directory in which nothing but the lock has been written yet."""
    if run.is_dir() and all(path.name == LOCK for path in run.iterdir()):
        return RunRecord(run, {}, "", None, {}, [], {})
    return read_run(run)


def state_of(record: RunRecord) -> State:
    """Whether the run's process lives, and how far it has come."""
    total = None if record.schedule is None else record.schedule.total_steps
    stands = f"{record.steps:,}" + (f" of {total:,}" if total is not None else "")
    if is_held(record.root / LOCK):
        return State("running", f"running: {stands} gradient steps are known to be taken", "bold green")
    if total is not None and record.steps >= total:
        return State("finished", f"finished: all {total:,} gradient steps are taken", "bold green")
    if not record.metrics and not record.evaluations and not (record.root / "checkpoints").is_dir():
        return State("empty", "not running: nothing has been trained here yet", "bold yellow")
    again = "the same moto fit command goes on from its last checkpoint"
    return State("not running", f"not running: it ended at {stands} gradient steps; {again}", "bold red")


def view(run: Path, record: RunRecord, now: float) -> RenderableType:
    """All that is shown of a run.

    Args:
        run: its directory, as the user named it.
        record: what was read of it.
        now: seconds since 1970, for ages.
    """
    state = state_of(record)
    head = Text.assemble((_title(record), "bold"), f"  {_plain(str(run))}\n", (state.sentence, state.style))
    if (age := _age(record.root, now)) is not None:
        head.append(f"\n{age}", "dim")
    parts: list[RenderableType] = [head]
    if record.schedule is not None:
        parts += [_rule("schedule"), _progress(record, record.schedule)]
    if (speeds := _speeds(record, state)) is not None:
        parts += [_rule("throughput"), speeds]
    if (figures := _figures(record)) is not None:
        parts += [_rule("latest figures"), figures]
    if record.evaluations:
        parts += [_rule("evaluations"), _evaluations(record.evaluations)]
    if lines := error_lines(record.root):
        parts += [_rule("last errors"), Text("\n".join(lines), "red")]
    return Group(*parts)


def _rule(title: str) -> Rule:
    return Rule(Text(title, "dim"), align="left", style="dim")


def _title(record: RunRecord) -> str:
    agent = record.setting("model", "class_path")
    named = _plain(str(agent)).rpartition(".")[2] if agent else "run"
    env = record.setting("data", "env")
    return f"{named} on {_plain(str(env))}" if env else named


def _age(root: Path, now: float) -> str | None:
    """When the run has last written something, and its last checkpoint; None where it has written neither."""
    written = [*root.glob("csv/version_*/metrics.csv"), *root.glob("*.jsonl"), *root.glob("replay/*.json")]
    checkpoint = root / "checkpoints/last.ckpt"
    times = [when for path in (*written, checkpoint) if (when := _mtime(path)) is not None]
    if not times:
        return None
    saved = _mtime(checkpoint)
    said = f"last written {_ago(now - max(times))}"
    return f"{said}, last checkpoint {_ago(now - saved)}" if saved is not None else f"{said}, no checkpoint yet"


def _mtime(path: Path) -> float | None:
    found = file_status(path)
    return None if found is None else found.st_mtime


def _ago(seconds: float) -> str:
    return f"{duration(max(0.0, seconds))} ago"


def _progress(record: RunRecord, schedule: Schedule) -> Table:
    """A bar for each phase."""
    table = Table.grid(padding=(0, 2))
    ends = (
        ("offline: world model", 0, schedule.model_steps),
        ("offline", schedule.model_steps, schedule.pretraining_steps),
        ("online", schedule.pretraining_steps, schedule.total_steps),
    )
    for name, begin, end in ends:
        if end == begin:
            continue
        label = "offline: actor and critics" if name == "offline" and schedule.model_steps else name
        taken = min(max(record.steps - begin, 0), end - begin)
        bar = ProgressBar(total=end - begin, completed=taken, width=40)
        table.add_row(label, bar, Text(f"{taken:,} of {end - begin:,} gradient steps"))
    if schedule.online_steps:
        rounds = record.metrics["online/return"].step if "online/return" in record.metrics else np.zeros(0)
        logged = len(rounds) * schedule.episodes_per_round
        known = max([logged, *(evaluation.online_episodes for evaluation in record.evaluations)])
        table.add_row("episodes", "", Text(f"{known:,} of {schedule.online_episodes:,} collected"))
    return table


def _speeds(record: RunRecord, state: State) -> Table | None:
    """How fast the last rounds went, and how long what is left would take at that speed."""
    table = Table.grid(padding=(0, 2))
    for name, (label, form) in _SPEEDS.items():
        series = record.metrics.get(name)
        if series is not None:
            last, median = form.format(series.value[-1]), form.format(np.median(series.value))
            table.add_row(label, Text(last, justify="right"), Text(f"median {median}", "dim"))
    speed = record.metrics.get("speed/updates_per_s")
    if state.word == "running" and record.schedule is not None and speed is not None:
        recent = float(np.median(speed.value[-10:]))
        left = record.schedule.total_steps - record.steps
        if left > 0 and np.isfinite(recent) and recent > 0:
            table.add_row("gradient steps that are left", f"{duration(left / recent)}", Text("without episodes", "dim"))
    return table if table.row_count else None


def _figures(record: RunRecord) -> Table | None:
    """The newest value of each figure, and after which gradient step; two beside each other."""
    cells = []
    for name in _FIGURES:
        series = record.metrics.get(name)
        if series is not None:
            value = float(series.value[-1])
            style = "" if np.isfinite(value) else "bold red"
            cells.append((name, Text(f"{value:.4g}", style, justify="right"), Text(f"{series.step[-1]:,}", "dim")))
    table = Table.grid(padding=(0, 2))
    half = -(-len(cells) // 2)
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "", "")):
        table.add_row(*left, "   ", *right)
    return table if cells else None


def _evaluations(evaluations: list[Evaluation]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("after step", justify="right")
    table.add_column("seeds")
    table.add_column("phase")
    for name in ("success", "at the last step", "steps in success", "return"):
        table.add_column(name, justify="right")
    ordered = sorted(evaluations, key=lambda evaluation: (evaluation.step, evaluation.stage))
    for one in ordered[-EVALUATIONS:]:
        table.add_row(
            f"{one.step:,}",
            "test" if one.stage == "test" else "evaluation",
            _plain(one.phase),
            f"{one.successes} of {one.episodes}",
            *one.cells(),
        )
    return table


def error_lines(root: Path) -> list[str]:
    """The last lines of what went wrong in a run, with when; none where nothing has."""
    path = root / ERRORS
    try:
        with open_regular(path, root) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            text = file.read(_TAIL).decode(errors="replace")
    except OSError:
        return []
    return [_plain(line)[:400] for line in text.splitlines() if line.strip()][-ERROR_LINES:]


def _plain(text: str) -> str:
    """Text of a run's files, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
