"""Processes in which a campaign's runs go on: started, watched and ended. Importing this needs no torch."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from moto_pl.campaigns.plan import Campaign, Run
from moto_pl.files import open_to_add
from moto_pl.threads import ONE_THREAD
from moto_pl.trust import TRUSTED, VARIABLE

LOG = "log.txt"
#: Seconds that a run is given to write a checkpoint before it is killed.
GRACE_S = 60.0
_ATTEMPT = "==== "  # what a new attempt's first line in the log begins with
_PR_SET_PDEATHSIG = 1


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        code: exit status, negative for a signal; None where its machine or job was lost.
        said: what is known beside its log, such as that it took too long.
    """

    code: int | None
    said: str = ""


@dataclass(frozen=True)
class Job:
    """An attempt at a run, as it is sent to where it goes on.

    Attributes:
        name: of the run.
        arguments: of ``moto fit``.
        directory: of the run.
        threads: that it may have.
        nice: added to its niceness.
        timeout_s: seconds that it may take; None: any number.
        cwd: directory in which relative paths begin.
    """

    name: str
    arguments: tuple[str, ...]
    directory: str
    threads: int
    nice: int
    timeout_s: float | None
    cwd: str

    @classmethod
    def of(cls, campaign: Campaign, run: Run) -> Job:
        """The next attempt at a run."""
        seconds = None if campaign.timeout is None else campaign.timeout * 60
        return cls(run.name, run.arguments, str(run.directory), campaign.threads, campaign.nice, seconds, os.getcwd())


class Worker(Protocol):
    """An attempt under way."""

    @property
    def job_id(self) -> str | None:
        """By which another campaign finds it again, on a cluster that goes on without this one."""

    def poll(self) -> Outcome | None:
        """How it ended; None while it has not."""

    def stop(self) -> None:
        """Asks it to write a checkpoint and end."""

    def kill(self) -> None:
        """Ends it at once."""


class Workers(Protocol):
    """Where attempts go on."""

    def start(self, job: Job) -> Worker:
        """Begins one."""

    def find(self, job_id: str) -> Worker | None:
        """One that a campaign before this one began; None where there is none."""

    def close(self) -> None:
        """Lets go of the cluster."""


class Process:
    """``moto fit`` in a process of its own, which dies with this one.

    Its output is added to the run's ``log.txt``. It is the leader of its own session, so that a terminal's Ctrl-C
    reaches the campaign alone.

    Raises:
        OSError: where it cannot be started, or its log not written.
    """

    job_id = None

    def __init__(self, job: Job) -> None:
        directory = Path(job.cwd) / job.directory
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "moto_pl.cli", "fit", *job.arguments]
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, str(job.threads)), "PYTHONUNBUFFERED": "1"}
        # The file's arguments are not typed: a run trusts no more than its --trust says, wherever it goes on.
        environment[VARIABLE] = ",".join(TRUSTED)
        with open_to_add(directory / LOG) as log:
            log.write(f"{_ATTEMPT}{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command,
                cwd=job.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_tie(os.getpid(), job.nice),
            )
        self._deadline = None if job.timeout_s is None else time.monotonic() + job.timeout_s
        self._said = ""
        self._timeout_s = job.timeout_s

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def poll(self) -> Outcome | None:
        """How it ended; None while it has not. One that takes too long is asked to end, then made to."""
        code = self._process.poll()
        if code is not None:
            self._signal(signal.SIGKILL)  # what it may have left behind in its session
            return Outcome(code, self._said)
        if self._deadline is not None and time.monotonic() > self._deadline:
            if self._said:
                self.kill()
            else:
                self._said = f"took more than {(self._timeout_s or 0) / 60:g} minutes"
                self.stop()
                self._deadline += GRACE_S
        return None

    def stop(self) -> None:
        """SIGTERM: it writes a checkpoint and ends."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, for its helpers too."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass


class LocalWorkers:
    """Processes on this machine."""

    def start(self, job: Job) -> Worker:
        """Begins one."""
        return Process(job)

    def find(self, job_id: str) -> Worker | None:
        """None: what a campaign began here ended with it."""
        return None

    def close(self) -> None:
        """Nothing is held."""


def work(job: Job) -> Outcome:
    """Goes through an attempt in this process, of a cluster."""
    return watch(Process(job))


def watch(process: Process, wanted: Callable[[], bool] = lambda: True) -> Outcome:
    """Waits for an attempt; ends it where this process is interrupted, or once it is not wanted any more."""
    try:
        while (outcome := process.poll()) is None:
            if not wanted():
                return Outcome(None, "its campaign has ended")
            time.sleep(0.5)
        return outcome
    finally:
        end(process)


def end(*workers: Worker, grace_s: float = GRACE_S, urgent: Callable[[], bool] = lambda: False) -> None:
    """Stops workers, and kills those that have not ended after ``grace_s`` seconds, or once ``urgent`` is true."""
    left = [worker for worker in workers if worker.poll() is None]
    for worker in left:
        worker.stop()
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline and not urgent():
        time.sleep(0.1)
        left = [worker for worker in left if worker.poll() is None]
    for worker in left:
        worker.kill()


def last_error(directory: Path, outcome: Outcome) -> str:
    """How an attempt ended, in one line: its own last error, and the signal that ended it."""
    lines = _last_attempt(directory / LOG)
    errors = [line for line in lines if re.match(r"moto: |[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    said = (errors or lines or [""])[-1].removeprefix("moto: ")
    if outcome.code is None:
        return outcome.said or said
    if outcome.code < 0:
        name = signal.Signals(-outcome.code).name
        memory = ", perhaps for want of memory" if -outcome.code == signal.SIGKILL else ""
        return outcome.said or f"killed by {name}{memory}" + (f"; last: {said}" if errors else "")
    return outcome.said or said or f"exit status {outcome.code}"


def _last_attempt(path: Path) -> list[str]:
    """The lines of a log from its last attempt on, without empty ones."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 16)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    begun = max((i for i, line in enumerate(lines) if line.startswith(_ATTEMPT)), default=-1)
    return [line.strip() for line in lines[begun + 1 :] if line.strip()]


def _tie(parent: int, nice: int) -> Callable[[], None]:
    """What a new process does first: it asks to be killed when its parent is, even by SIGKILL."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def tie() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it is dead already
                os._exit(1)
        if nice:
            os.nice(nice)

    return tie
