"""Collects the next round's episodes in a process of its own while the learner takes its gradient steps."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from moto_pl import signals
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.policy import Acting, ActMode
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from moto_pl.threads import one_thread

_ATTEMPTS = 3
_SIGNAL_CHECK_S = 0.2


class Job(NamedTuple):
    """Episodes to roll: the arguments of :func:`moto_pl.rollout.roll.roll_episodes`."""

    seeds: Sequence[int]
    mode: ActMode
    key: Key
    explore: Exploration


class Collector:
    """Rolls episodes elsewhere, with a copy of the policy as it was when they were asked for.

    A process that dies is replaced and given its job again, which gives the same episodes.

    Args:
        environments: the arguments of :class:`~moto_pl.rollout.pool.EnvPool`.

    Attributes:
        environments: the same; may be set anew before the first job.
    """

    def __init__(self, *environments: Any) -> None:
        self.environments = environments
        self._process: Any = None
        self._connection: Connection | None = None
        self._message: tuple[bytes, Job] | None = None

    @property
    def busy(self) -> bool:
        """Whether episodes have been asked for and not been fetched."""
        return self._message is not None

    def submit(self, agent: Acting, job: Job) -> None:
        """Begins to roll; the agent's present weights are copied."""
        assert not self.busy
        copy = io.BytesIO()
        torch.save(agent, copy)
        self._message = copy.getvalue(), job
        self._send()

    def fetch(self) -> list[Episode]:
        """The episodes that were asked for, waiting for them if need be.

        Raises:
            SettingError: the collecting process died again and again.
            Stopped: a signal has come that was noted to be obeyed between steps.
        """
        assert self._message is not None
        for _ in range(_ATTEMPTS):
            if self._connection is None:
                self._send()
            try:
                assert self._connection is not None
                while not self._connection.poll(_SIGNAL_CHECK_S):
                    signals.check()
                result = self._connection.recv()
            except (EOFError, OSError):
                self.close(keep_job=True)
                continue
            self._message = None
            if isinstance(result, BaseException):
                raise result
            episodes: list[Episode] = result
            return episodes
        self.close()
        raise SettingError(
            "data.collect", f"overlap, whose process died {_ATTEMPTS} times", "Try data.collect: alternate."
        )

    def close(self, keep_job: bool = False) -> None:
        """Ends the process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.join(2)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None
        if not keep_job:
            self._message = None

    def _send(self) -> None:
        if self._connection is None:
            # Spawned, because the learner may hold a GPU and a renderer, which a fork must not share.
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            # Not a daemon: those may have no environment workers. It ends when our end of the pipe is closed.
            self._process = context.Process(target=_run, args=(theirs, self.environments), name="collector")
            self._process.start()
            theirs.close()
        try:
            self._connection.send(self._message)
        except OSError:
            pass  # it died: fetch finds that out


def _run(connection: Connection, environments: tuple[Any, ...]) -> None:
    """The process."""
    signals.ignore()
    signals.end_with(os.getppid())
    one_thread()
    _serve(connection, environments)
    os._exit(0)  # taking apart what was imported takes a second, for which the learner would wait


def _serve(connection: Connection, environments: tuple[Any, ...]) -> None:
    """Rolls what is asked for; ``environments``: the arguments of :class:`EnvPool`."""
    pool: EnvPool | None = None
    try:
        while True:
            blob, job = connection.recv()
            # Our own learner's bytes, over our own pipe.
            agent = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=False)
            try:
                pool = pool or EnvPool(*environments)
                result: Any = roll_episodes(pool, agent, *job)
            except Exception as error:
                result = error
            connection.send(result)
    except (EOFError, OSError):
        pass  # the learner has ended
    finally:
        if pool is not None:
            pool.close()
