"""Independent jobs in processes of their own, which may hang or die without taking the others along.

One of the package's two pools of processes: this one deals out whole jobs, such as an episode of a dataset to build.
Environments that a policy steps together are in :mod:`moto_pl.rollout.pool`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from moto_pl import signals
from moto_pl.envs.rendering import select_backend, software_fallback
from moto_pl.errors import SettingError
from moto_pl.threads import one_thread

Job = TypeVar("Job")
Result = TypeVar("Result")
MAX_LOSSES = 3
"""Processes that may be lost over one job."""


def in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, timeout_s: float = 300.0, draws: bool = True
) -> Iterator[tuple[int, Result]]:
    """Call ``function`` on each job in new processes; results come as they are ready, with their job's index.

    The processes are started fresh (never forked: an OpenGL context does not survive that) and each keeps what the
    function stores at module level, such as its renderer, from job to job. A process that dies, or gives no result
    within ``timeout_s``, is killed and replaced, and its job is done again; where that fails once more, the next one
    draws with OSMesa, if EGL was used before and OSMesa works. None outlives this process.

    Args:
        function: a module's function, whose import needs no OpenGL; the same for a job wherever it runs.
        jobs: its arguments, which can be pickled.
        workers: processes at a time, at most one a job.
        timeout_s: the most seconds that a job may take, the start of its process included.
        draws: whether jobs need OpenGL, which then has to work here.

    Raises:
        SettingError: what a job raised; too few workers; or the processes of one job were lost again and again.
        RuntimeError: a job raised anything else; the text holds its traceback.
    """
    if workers < 1:
        raise SettingError("workers", workers, "Use 1 or more.")
    workers = min(workers, len(jobs))
    backend = select_backend() if draws else ""  # once here: the processes inherit it
    waiting = deque(enumerate(jobs))
    losses = [0] * len(jobs)
    processes: list[_Process] = []
    try:
        while waiting or any(process.index is not None for process in processes):
            while waiting and len(processes) < workers:
                processes.append(_Process(function, backend))
            for process in processes:
                if waiting and process.index is None:
                    process.give(*waiting.popleft(), timeout_s)
            wait([process.connection for process in processes if process.index is not None], timeout=0.2)
            for process in list(processes):
                if process.index is None:
                    continue
                try:
                    answer = process.answer()
                except _Lost as lost:
                    index = process.index
                    process.kill()
                    processes.remove(process)
                    losses[index] += 1
                    if losses[index] >= MAX_LOSSES:
                        found = f"{MAX_LOSSES} processes lost over one job, the last {lost}"
                        fix = "Run `moto doctor` to check the renderer, or use 1 worker."
                        raise SettingError("workers", found, fix) from None
                    if draws and losses[index] == 2:  # twice in a row is no accident
                        backend = software_fallback(backend)
                    again = f"with {backend}" if draws else "in another"
                    warnings.warn(f"a worker process {lost}; its job is done again {again}", stacklevel=2)
                    waiting.appendleft((index, jobs[index]))
                else:
                    if answer is not None:
                        yield answer
    finally:
        for process in processes:
            process.kill()


class _Lost(Exception):
    """A process gives no result; the text says why, as in "a worker process <text>"."""


class _Process:
    """The parent's end of one process."""

    def __init__(self, function: Callable[[Any], Any], backend: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = theirs, function, backend, os.getpid()
        self.process: BaseProcess = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self._deadline, self._timeout_s = 0.0, 0.0

    def give(self, index: int, job: Any, timeout_s: float) -> None:
        self.index, self._deadline, self._timeout_s = index, time.monotonic() + timeout_s, timeout_s
        try:
            self.connection.send((index, job))
        except OSError:
            pass  # it is dead, which is noticed next

    def answer(self) -> tuple[int, Any] | None:
        """The job's index and result, or None while it is at work; raises what the job raised, or ``_Lost``."""
        try:
            if not self.connection.poll():
                if time.monotonic() > self._deadline:
                    raise _Lost(f"gave no result within {self._timeout_s:g} s")
                return None
            index, kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5.0)
            raise _Lost(f"ended with exit status {self.process.exitcode}") from None
        self.index = None
        if kind == "setting":
            raise SettingError(*value)
        if kind == "error":
            raise RuntimeError(f"a job failed in a worker process: {value}")
        return index, value

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join(5.0)


def _serve(connection: Connection, function: Callable[[Any], Any], backend: str, parent: int) -> None:
    signals.ignore()
    signals.end_with(parent)
    one_thread()
    if backend:
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    while True:
        try:
            index, job = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone; no interpreter shutdown, which drivers may hang in
        try:
            answer = index, "result", function(job)
        except SettingError as error:
            answer = index, "setting", (error.setting, str(error.found), error.fix)
        except Exception as error:
            answer = index, "error", "".join(traceback.format_exception(error)).strip()
        try:
            connection.send(answer)
        except OSError:
            os._exit(0)
