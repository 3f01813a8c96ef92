"""The command line: ``moto fit | validate | test`` are Lightning's, the other verbs are functions of ours."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import moto_pl
from moto_pl import signals
from moto_pl.errors import SettingError
from moto_pl.training.configs import LIGHTNING_VERBS
from moto_pl.trust import gate, split_trust
from moto_pl.verbs import Verb, choose

# What a verb needs is imported when it runs: a list of verbs should not wait for torch.


def doctor() -> int:
    """Check rendering, compiled operators, devices and disk."""
    from moto_pl.doctor import run_doctor

    return run_doctor()


def report(run: Path, against: Sequence[Path] = ()) -> int:
    """Write a run's report.html.

    Args:
        run: the run's directory (trainer.default_root_dir).
        against: runs to compare it with.
    """
    from moto_pl.report.page import write_report

    print(f"report: {write_report(run, against)}")
    return 0


def compare(
    runs: Sequence[str],
    metric: Literal["success", "success_last", "success_steps", "objects", "return"] | None = None,
    out: Path = Path("comparison"),
) -> int:
    """Compare methods: table, learning curves, page.

    Args:
        runs: directories of runs, each with NAME= before it where it is to be called something else; seeds of a
            method are found.
        metric: what is compared; null is objects where the task has several, else success.
        out: directory to write to.
    """
    from moto_pl.report.compare import run_compare

    return run_compare(runs, out, metric)


def reproduce(
    target: Literal["table1", "kitchen-data", "figure5", "figure6"] | None = None,
    scale: Literal["cpu", "paper"] = "cpu",
    out: Path = Path("reproduction"),
    runs: Path = Path("runs/reproduce"),
) -> int:
    """Run the paper's tables and figures beside ours.

    Args:
        target: what to make; none says what has been run.
        scale: how much is done.
        out: directory for results.
        runs: directory of the training run.
    """
    from moto_pl.analysis.reproduce import run_reproduce

    return run_reproduce(target, scale, out, runs)


def demo(dir: Path = Path("runs/demo")) -> int:
    """Make demonstrations, training and report of one task, on a CPU.

    Args:
        dir: the run's directory; a run that was interrupted goes on.
    """
    from moto_pl.demo import run_demo

    return run_demo(dir)


def campaign(
    file: Path,
    *,
    dry_run: bool = False,
    status: bool = False,
    where: Literal["local", "slurm", "ray"] = "local",
    retry_failed: bool = False,
    trust: Sequence[str] = (),
) -> int:
    """Run a grid of tasks, agents, settings and seeds from one file; the same command goes on after any end.

    Args:
        file: the campaign (docs/campaigns.md says what it may hold).
        dry_run: check everything, print the runs and their commands, and start none.
        status: print the table as it is now, and start nothing.
        where: on this machine, on SLURM (through submitit), or on a Ray cluster.
        retry_failed: take up again the runs that were given up.
        trust: packages whose code the campaign and its configurations may name.
    """
    from moto_pl.campaigns.command import run_campaign

    return run_campaign(file, dry_run, status, where, retry_failed, list(trust))


_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
}
#: Verbs that have verbs of their own: the module whose ``VERBS`` they are, and what they are for.
GROUPS = {
    "data": ("moto_pl.datasets.commands", "Build, import, render, describe, show and list datasets of demonstrations."),
    "analyze": ("moto_pl.analysis.commands", "Ask what a model knows, and what it knows that it does not know."),
}
#: All verbs, in the order in which they are shown.
VERBS: dict[str, Verb | str] = {
    "fit": "Pre-train on demonstrations, then fine-tune online.",
    "validate": "Evaluate a checkpoint on the evaluation seeds.",
    "test": "Evaluate a checkpoint on the test seeds.",
    "data": GROUPS["data"][1],
    "doctor": Verb(doctor),
    "report": Verb(report),
    "compare": Verb(compare),
    "analyze": GROUPS["analyze"][1],
    "reproduce": Verb(reproduce, positional=("target",)),
    "demo": Verb(demo),
    "campaign": Verb(campaign),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``moto``. Returns the exit status; bad input is one line on stderr and status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.obeyed():
            return run(args)
    except SettingError as error:
        print(f"{error.details}moto: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # What a disk or its permissions refuse, wherever it is written; any other is a fault of ours, and shows where.
        if error.errno not in _DISK:
            raise
        where = " to ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        fix = "Free space, or use a directory that can be written; a run goes on from its last checkpoint."
        print(f"moto: {where or 'the disk'}: found {error.strerror}. {fix}", file=sys.stderr)
        return 2
    except signals.Stopped as stopped:
        print(f"moto: ended by {stopped.name}", file=sys.stderr)
        return 128 + stopped.number


def run(args: Sequence[str]) -> int:
    """Runs a command line; returns the exit status.

    Raises:
        SettingError: bad input.
    """
    if args and args[0] == "--version":
        print(f"moto_pl {moto_pl.__version__}")
        return 0
    if args and args[0] == "campaign":  # it has an option of that name, which it hands on to its runs
        return _run(args)
    packages, args = split_trust(args)
    with gate(packages):
        return _run(args)


def _run(args: Sequence[str]) -> int:
    name, rest = choose(VERBS, args, "moto", "MOTO: from image demonstrations to a policy.")
    if name in LIGHTNING_VERBS:
        from moto_pl.training.launch import run_lightning

        run_lightning(args)
        return 0
    prog, verb = f"moto {name}", VERBS[name]
    if isinstance(verb, str):
        module, description = GROUPS[name]
        verbs: dict[str, Verb] = import_module(module).VERBS
        name, rest = choose(verbs, rest, prog, description)
        prog, verb = f"{prog} {name}", verbs[name]
    return verb(rest, prog)


if __name__ == "__main__":
    sys.exit(main())
