"""Which of a run's videos its page shows, and what it says of each."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from moto_pl.reading import is_inside, read_bytes
from moto_pl.report.records import RunRecord
from moto_pl.report.results import PHASES, staying

MAX_VIDEOS = 8
MAX_VIDEO_BYTES = 30 * 2**20  # of all videos together, as they stand in the page


class Video(NamedTuple):
    """A video that stands in the page.

    Attributes:
        file: within the run's directory.
        content: base64.
    """

    title: str
    caption: str
    file: str
    content: str


class Videos(NamedTuple):
    """The run's videos: some stand in the page, the others are named; ``most`` and ``most_bytes`` say how many."""

    shown: list[Video]
    left_out: list[str]
    most: int
    most_bytes: int


def videos(record: RunRecord) -> Videos:
    """Those that tell most, as far as there is room; the world model's predictions come last."""
    found = sorted((record.root / "videos").glob("[!.]*.mp4"))
    paths = [path for path in found if is_inside(path, record.root)]
    record.missing.extend(f"videos/{p.name} is a link, or no file." for p in found if p not in paths)
    shown: set[Path] = set()
    room = float(MAX_VIDEO_BYTES)
    for path in _by_interest(record, paths):
        inlined = path.stat().st_size * 4 / 3
        if len(shown) < MAX_VIDEOS and inlined <= room:
            shown.add(path)
            room -= inlined
    order = sorted(shown, key=lambda path: (_step_of(path)[0] == "open_loop", _step_of(path)[1] or 0, path.name))
    left_out = [_file(record, path) for path in paths if path not in shown]
    return Videos([_video(record, path) for path in order], left_out, MAX_VIDEOS, MAX_VIDEO_BYTES)


def _by_interest(record: RunRecord, paths: Sequence[Path]) -> list[Path]:
    """What tells most first: newest and first evaluation, end of pre-training, newest predictions, tests."""
    kinds: dict[str, list[Path]] = {"eval": [], "open_loop": [], "test": [], "": []}
    for path in sorted(paths, key=lambda path: _step_of(path)[1] or 0, reverse=True):
        kinds[_step_of(path)[0]].append(path)
    evaluations, predictions = kinds["eval"], kinds["open_loop"]
    pretrained = [path for path in evaluations + predictions if _step_of(path)[1] == record.offline_steps]
    first = [*evaluations[:1], *predictions[:1], *evaluations[-1:], *kinds["test"][:1], *pretrained]
    # Then as they come, the kinds in turn.
    rest = [path for pair in zip(evaluations[1:], predictions[1:], strict=False) for path in pair]
    return list(dict.fromkeys([*first, *rest, *evaluations, *predictions, *kinds["test"], *kinds[""]]))


def _step_of(path: Path) -> tuple[str, int | None]:
    match = re.fullmatch(r"(eval|test|open_loop)_(\d+)", path.stem)
    return (match[1], int(match[2])) if match else ("", None)


def _video(record: RunRecord, path: Path) -> Video:
    kind, step = _step_of(path)
    if step is None:
        title, caption = path.stem, "A video that the run did not name."
    else:
        title = f"{'World model' if kind == 'open_loop' else 'Policy'} after {step:,} gradient steps"
        phase = _phase_at(record, step)
        title += f", {phase}" if phase else ""
        caption = _caption(record, kind, step)
    content = base64.b64encode(read_bytes(path, MAX_VIDEO_BYTES, record.root)).decode()
    return Video(title, caption, _file(record, path), content)


def _file(record: RunRecord, path: Path) -> str:
    return path.relative_to(record.root).as_posix()


def _caption(record: RunRecord, kind: str, step: int) -> str:
    if kind == "open_loop":
        return (
            "The world model's predictions: recorded frames above, the model in the middle, its error below (grey is "
            "none). It sees the first frames and then only the recorded actions. One sequence a column."
        )
    seeds = "test" if kind == "test" else "evaluation"
    found = [e for e in record.evaluations if e.stage == kind and e.step == step]
    of = f" Of all {found[0].episodes}, {found[0].successes} succeed{staying(found[0])}." if found else ""
    return f"The first episodes on the {seeds} seeds, side by side; one that ends early holds its last frame.{of}"


def _phase_at(record: RunRecord, step: int) -> str:
    phase = record.schedule.phase(step) if record.schedule is not None else ""
    phase = phase or next((e.phase for e in record.evaluations if e.step == step), "")
    return PHASES.get(phase, phase)
