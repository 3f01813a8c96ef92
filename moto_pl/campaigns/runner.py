"""Going through a campaign: what is to be started, what has ended, and what comes of it."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from moto_pl.campaigns.check import Settings, check_finished
from moto_pl.campaigns.plan import Campaign, Run
from moto_pl.campaigns.progress import State, is_finished, read_progress
from moto_pl.campaigns.results import has_rows, keep_campaign, keep_rows
from moto_pl.campaigns.table import Status, View, steps
from moto_pl.campaigns.workers import Job, Outcome, Worker, Workers, end, last_error
from moto_pl.datasets.minari_io import exists
from moto_pl.errors import SettingError

_POLL_S, _SHOW_S = 0.2, 1.0
#: Exit status of ``moto fit`` for bad input: the same command will say the same again.
_BAD_INPUT = 2
#: Bytes below which a disk counts as full: nothing of a run's fits there.
_FULL = 1 << 20


class Runner:
    """Runs a campaign.

    Args:
        campaign: the campaign.
        settings: of each cell, from :func:`moto_pl.campaigns.check.check`.
        workers: where its runs go on.
        again: take up runs that were given up before.

    Raises:
        SettingError: a finished run that had other settings.
    """

    def __init__(
        self, campaign: Campaign, settings: Mapping[tuple[str, str, str], Settings], workers: Workers, again: bool
    ) -> None:
        self._campaign, self._settings, self._workers = campaign, settings, workers
        self._state = State(campaign.runs)
        self._running: dict[Run, Worker] = {}
        self.statuses: dict[Run, Status] = {}
        for run in campaign.grid():
            note = self._state[run]
            if again:
                note.failures, note.given_up = 0, False
            status = Status("waiting", read_progress(run.directory), settings[run.cell].total_steps, note.error)
            if self._is_finished(run):
                check_finished(run, settings[run.cell])
                status.kind, status.error = "done", ""
            elif note.given_up:
                status.kind = "failed"
            self.statuses[run] = status
        self._view = View(campaign, self.statuses)

    def run(self) -> int:
        """Goes through all runs.

        Returns:
            0 where all are done, 1 where some have failed, 128 + the number of a signal that ended it.

        Raises:
            SettingError: a full disk.
        """
        with _Signals() as signals, self._view:
            try:
                self._begin()
                shown = 0.0
                while signals.number is None and self._step():
                    if time.monotonic() - shown > _SHOW_S:
                        shown = time.monotonic()
                        self._show()
                    time.sleep(_POLL_S)
            except OSError as error:
                raise self._unwritable(error) from error
            finally:
                self._end(signals)
        if signals.number is not None:
            return 128 + signals.number
        return int(any(status.kind != "done" for status in self.statuses.values()))

    def done(self) -> list[Run]:
        """Those that are finished."""
        return [run for run, status in self.statuses.items() if status.kind == "done"]

    def _begin(self) -> None:
        """Keeps what a campaign before this one had no time to keep, and finds what it left running on a cluster."""
        keep_campaign(self._campaign)
        for run in self.done():
            self._state.forget(run)
            if not has_rows(self._campaign, run):
                keep_rows(self._campaign, run)
        for run, status in self.statuses.items():
            note = self._state[run]
            if status.kind == "waiting" and note.job is not None:
                worker = self._workers.find(note.job)
                if worker is not None:
                    self._running[run] = worker
                    status.kind = "running"
                    self._view.say(f"{run.name}: found again as job {note.job}")
        self._state.save()
        done, failed = len(self.done()), sum(status.kind == "failed" for status in self.statuses.values())
        given_up = f", {failed} given up before (--retry_failed takes them up again)" if failed else ""
        self._view.say(f"{self._campaign.name}: {done} of {len(self.statuses)} runs are done{given_up}")

    def _step(self) -> bool:
        """Takes in what has ended, and starts what may be; False once there is nothing left."""
        for run, worker in list(self._running.items()):
            outcome = worker.poll()
            if outcome is not None:
                del self._running[run]
                self._ended(run, outcome)
        waiting = [run for run, status in self.statuses.items() if status.kind == "waiting"]
        for run in waiting:
            if len(self._running) >= self._campaign.slots:
                break
            if not self._builds_beside_another(run):
                self._start(run)
        return bool(self._running or waiting)

    def _builds_beside_another(self, run: Run) -> bool:
        """Whether a run would build a dataset that a running one is building."""
        target = self._settings[run.cell].build
        building = {self._settings[other.cell].build for other in self._running}
        return target is not None and target in building and not exists(target)

    def _start(self, run: Run) -> None:
        self._check_disk()
        worker = self._workers.start(Job.of(self._campaign, run))
        self._running[run] = worker
        status, note = self.statuses[run], self._state[run]
        status.kind, note.job = "running", worker.job_id
        self._state.save()
        begun = f"goes on at step {status.progress.step:,}" if status.progress.step else "started"
        attempt = f" (attempt {note.failures + 1} of {self._campaign.retries + 1})" if note.failures else ""
        self._view.say(f"{run.name}: {begun}{attempt}")

    def _ended(self, run: Run, outcome: Outcome) -> None:
        status, note = self.statuses[run], self._state[run]
        status.progress, note.job = read_progress(run.directory), None
        if self._is_finished(run):
            status.kind, status.error = "done", ""
            path = keep_rows(self._campaign, run)
            self._state.forget(run)
            success = "" if status.progress.success is None else f", success {status.progress.success:.2f}"
            self._view.say(f"{run.name}: done, {steps(status)}{success}; rows in {path}")
        else:
            self._failed(run, last_error(run.directory, outcome), outcome)
        self._state.save()
        self._view.update()

    def _failed(self, run: Run, error: str, outcome: Outcome) -> None:
        status, note = self.statuses[run], self._state[run]
        if any(os.strerror(number) in error for number in (errno.ENOSPC, errno.EDQUOT)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.directory))
        self._check_disk()
        if outcome.code == 0:
            error = f"ended at step {steps(status)} without an error: see {run.directory}/log.txt"
        note.failures += 1
        note.error = status.error = error
        note.given_up = note.failures > self._campaign.retries or outcome.code == _BAD_INPUT
        status.kind = "failed" if note.given_up else "waiting"
        then = "given up" if note.given_up else "taken up again"
        self._view.say(f"{run.name}: failed ({note.failures} of {self._campaign.retries + 1}), {then}: {error}")

    def _is_finished(self, run: Run) -> bool:
        settings = self._settings[run.cell]
        return is_finished(run.directory, settings.total_steps, settings.evaluates)

    def _show(self) -> None:
        for run in self._running:
            self.statuses[run].progress = read_progress(run.directory)
        self._view.update()

    def _end(self, signals: _Signals) -> None:
        """Lets what is running write its checkpoints."""
        if self._running:
            self._view.say(f"stopping {len(self._running)} run(s); they write their checkpoints")
        before = signals.count
        end(*self._running.values(), urgent=lambda: signals.count > before)
        for run in self._running:
            self.statuses[run].kind, self._state[run].job = "waiting", None
        try:
            self._state.save()
        except OSError:
            pass  # a full disk, which is being reported; what was there is whole
        self._workers.close()

    def _check_disk(self) -> None:
        """Raises an OSError where the runs' disk is full: an error that says so does not fit into a log there."""
        found = os.statvfs(self._campaign.runs)
        if found.f_bavail * found.f_frsize < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._campaign.runs))

    def _unwritable(self, error: OSError) -> SettingError:
        path = Path(str(error.filename or self._campaign.runs))
        setting = "results" if self._campaign.results_dir in (path, *path.parents) else "runs"
        fix = "Free disk space and give the same command again: the runs go on from their last checkpoints."
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            fix = "Make it writable and give the same command again."
        return SettingError(setting, f"{path}, which could not be written ({error.strerror})", fix)


class _Signals:
    """Notes SIGTERM and SIGINT while it is entered, and how often they came."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number, self.count = number, self.count + 1
