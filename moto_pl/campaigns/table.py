"""How a campaign is shown: one live table on a terminal, a line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moto_pl.campaigns.plan import DEFAULT, Campaign, Run
from moto_pl.campaigns.progress import Progress


@dataclass
class Status:
    """Where a run stands.

    Attributes:
        kind: what it is doing.
        progress: how far it is.
        total: its gradient steps; None where that is not known.
        error: how it failed, or how the attempt before this one did.
    """

    kind: Literal["waiting", "running", "done", "failed"] = "waiting"
    progress: Progress = field(default_factory=Progress)
    total: int | None = None
    error: str = ""


def campaign_table(campaign: Campaign, statuses: Mapping[Run, Status]) -> Group:
    """Tasks by agents; below, how runs failed."""
    settings = len(campaign.settings) > 1 or DEFAULT not in campaign.settings
    counts = {kind: sum(status.kind == kind for status in statuses.values()) for kind in ("done", "running", "failed")}
    title = f"{campaign.name}: {counts['done']} of {len(statuses)} runs done"
    title += f", {counts['running']} running" if counts["running"] else ""
    title += f", {counts['failed']} failed" if counts["failed"] else ""
    failed = [f"{run.name}: {status.error}" for run, status in statuses.items() if status.kind == "failed"]
    table = Table(title=escape(title), title_justify="left")
    table.add_column("task")
    if settings:
        table.add_column("setting")
    for agent in campaign.agents:
        table.add_column(escape(agent))
    for task in campaign.tasks:
        for setting in campaign.settings:
            cells = [
                _cell([(run, status) for run, status in statuses.items() if run.cell == (task, agent, setting)])
                for agent in campaign.agents
            ]
            table.add_row(escape(task), *([escape(setting)] if settings else []), *cells)
    return Group(table, *map(Text, failed))


def _cell(seeds: Iterable[tuple[Run, Status]]) -> str:
    """Seeds done, the latest success, what is running, and how many failed."""
    seeds = list(seeds)
    done = sum(status.kind == "done" for _, status in seeds)
    known = [status.progress.success for _, status in seeds if status.progress.success is not None]
    lines = [f"{done} of {len(seeds)}" + (f"  success {sum(known) / len(known):.2f}" if known else "")]
    lines += [f"seed {run.seed}: {steps(status)}" for run, status in seeds if status.kind == "running"]
    failed = [str(run.seed) for run, status in seeds if status.kind == "failed"]
    if failed:
        lines.append(f"[red]failed: seed {', '.join(failed)}[/red]")
    return "\n".join(lines)


def steps(status: Status) -> str:
    """``1,200/6,000  5.3/s``."""
    speed = status.progress.updates_per_s
    total = "?" if status.total is None else f"{status.total:,}"
    return f"{status.progress.step:,}/{total}" + ("" if speed is None else f"  {speed:.1f}/s")


class View:
    """Shows a campaign while it goes on.

    Args:
        campaign: the campaign.
        statuses: of all runs; read anew at each :meth:`update`.
    """

    def __init__(self, campaign: Campaign, statuses: Mapping[Run, Status]) -> None:
        self._campaign, self._statuses = campaign, statuses
        self._console = Console()
        self._live: Live | None = None

    def __enter__(self) -> View:
        if sys.stdout.isatty():
            self._live = Live(self._table(), console=self._console, auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self.update()
            self._live.stop()

    def update(self) -> None:
        """Draws the table anew."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def say(self, line: str) -> None:
        """An event; on a terminal it stands above the table."""
        # A text, because options of print hold for the live table too, which is drawn anew with it.
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {line}"), soft_wrap=self._live is None)

    def _table(self) -> Group:
        return campaign_table(self._campaign, self._statuses)
