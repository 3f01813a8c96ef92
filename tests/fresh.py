"""``moto`` in a process as new as a shell's, without the seconds that a shell's spends on imports."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

from runs import command

_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once by a server that does nothing else; each process is a copy of it, in which none of ours has run.
_CONTEXT.set_forkserver_preload(["moto_pl.training.cli", "moto_pl.datasets.minari_io", "moto_pl.envs.reach", "audit"])


class Done(NamedTuple):
    """How a process ended, and what it printed."""

    returncode: int
    output: str


def fit_fresh(run: Path, *args: str, agent: str = "MOTO", env: dict[str, str] | None = None) -> Done:
    """As :func:`runs.fit`."""
    return moto_fresh(run.with_suffix(".log"), command(run, *args, agent=agent)[3:], env)


def moto_fresh(log: Path, arguments: list[str], env: dict[str, str] | None = None) -> Done:
    """``moto`` with these arguments; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _CONTEXT.Process(target=_moto, args=(arguments, str(log), env or {}))
    process.start()
    process.join()
    return Done(int(process.exitcode or 0), log.read_text())


def _moto(arguments: list[str], log: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    import torch

    from moto_pl import cli

    torch.set_num_threads(1)
    code = cli.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
