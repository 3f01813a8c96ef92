"""``moto campaign``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from moto_pl.campaigns.plan import Campaign, read_campaign
from moto_pl.errors import SettingError
from moto_pl.files import LOCK, is_held, lock_run, make_directory
from moto_pl.trust import TRUSTED, gate

if TYPE_CHECKING:
    from moto_pl.campaigns.check import Settings
    from moto_pl.campaigns.workers import Workers

Where = Literal["local", "slurm", "ray"]


def run_campaign(path: Path, dry_run: bool, status: bool, where: Where, retry_failed: bool, trust: list[str]) -> int:
    """Runs a campaign; see :func:`moto_pl.cli.campaign`.

    Returns:
        The exit status: 0 where all runs are done, 1 where some are not, 128 + the number of a signal that ended it.

    Raises:
        SettingError: bad input, a directory that another campaign is in, or a full disk.
    """
    campaign = read_campaign(path, trust)
    with gate((*TRUSTED, *trust)):
        return show_status(campaign) if status else _check_and_run(campaign, dry_run, where, retry_failed)


def _check_and_run(campaign: Campaign, dry_run: bool, where: Where, retry_failed: bool) -> int:
    from moto_pl.training.launch import quiet

    quiet()
    from moto_pl.campaigns.check import check

    settings = check(campaign)
    if dry_run:
        for run in campaign.grid():
            print(f"{run.name}:\n  {shlex.join(['moto', 'fit', *run.arguments])}")
        print(f"{len(campaign.grid())} runs, {campaign.slots} at a time with {campaign.threads} thread(s) each")
        return 0
    return _run(campaign, settings, where, retry_failed)


def _run(campaign: Campaign, settings: dict[tuple[str, str, str], Settings], where: Where, again: bool) -> int:
    from moto_pl.campaigns.results import compare
    from moto_pl.campaigns.runner import Runner

    try:
        make_directory(campaign.runs)
        make_directory(campaign.results_dir)
    except OSError as error:
        raise SettingError("runs", f"{error.filename} ({error.strerror})", "Give directories to write to.") from None
    with lock_run(campaign.runs, "runs", "another campaign is going on"):
        runner = Runner(campaign, settings, _workers(campaign, where), again)
        code = runner.run()
        if code <= 1:
            for line in compare(campaign, runner.done()):
                print(line)
            print(f"results: {campaign.results_dir}")
    return code


def _workers(campaign: Campaign, where: Where) -> Workers:
    if where == "local":
        from moto_pl.campaigns.workers import LocalWorkers

        return LocalWorkers()
    from moto_pl.campaigns import clusters

    return clusters.SlurmWorkers(campaign) if where == "slurm" else clusters.RayWorkers(campaign)


def show_status(campaign: Campaign) -> int:
    """Prints the table of a campaign, as its directories are now, whoever is running it."""
    from moto_pl.campaigns.progress import State, is_finished, planned_steps, read_progress
    from moto_pl.campaigns.table import Status, campaign_table

    state, statuses = State(campaign.runs), {}
    for run in campaign.grid():
        planned, note = planned_steps(run.directory), state[run]
        found = Status("waiting", read_progress(run.directory), planned and planned[0], note.error)
        if planned is not None and is_finished(run.directory, *planned):
            found.kind = "done"
        elif note.given_up:
            found.kind = "failed"
        elif is_held(run.directory / LOCK):
            found.kind = "running"
        statuses[run] = found
    Console().print(campaign_table(campaign, statuses))
    return int(any(found.kind != "done" for found in statuses.values()))
