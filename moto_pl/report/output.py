"""What every analysis leaves behind: a picture, its numbers, and a caption that a report takes up."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from moto_pl.errors import SettingError
from moto_pl.files import write_whole
from moto_pl.report.charts import image_bytes

DIRECTORY = "analysis"


class Finding(NamedTuple):
    """What an analysis found.

    Attributes:
        name: of its files.
        title: of its section.
        caption: what is seen, from which data, of how many episodes, and what the paper found.
        figure: the picture.
        rows: the numbers, a mapping each, all with the same names.
        summary: the few numbers that matter.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]


def write_finding(finding: Finding, out: Path) -> list[Path]:
    """Writes ``<out>/<name>.{png,svg,csv,json}`` and returns their paths."""
    said = {
        "title": finding.title,
        "caption": finding.caption,
        "date": date.today().isoformat(),
        "summary": {name: _plain(value) for name, value in finding.summary.items()},
    }
    contents = {
        "png": image_bytes(finding.figure, "png"),
        "svg": image_bytes(finding.figure, "svg"),
        "csv": csv_text(finding.rows).encode(),
        "json": json.dumps(said, indent=1).encode(),
    }
    return write_results({f"{finding.name}.{kind}": content for kind, content in contents.items()}, out)


def write_results(contents: Mapping[str, bytes], out: Path) -> list[Path]:
    """Writes files by name into ``out``, each whole, and returns their paths.

    Raises:
        SettingError: where they cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(out / name, content)
    except OSError as error:
        raise SettingError("--out", out, f"{error.strerror}: give a directory that can be written to.") from None
    return [out / name for name in contents]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; nothing for none."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()


def _plain(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)
