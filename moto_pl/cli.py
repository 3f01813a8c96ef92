"""The command line: ``moto fit | validate | test`` are Lightning's, the other verbs are functions of ours."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import select
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, NoReturn

from moto_pl import signals
from moto_pl.errors import SettingError, tell
from moto_pl.evaluations import TEST_SEEDS
from moto_pl.training.configs import LIGHTNING_VERBS
from moto_pl.trust import gate, split_trust
from moto_pl.verbs import Verb, choose, completion_script

# What a verb needs is imported when it runs: a list of verbs should not wait for torch.


def doctor(*, json: bool = False) -> int:
    """Check rendering, compiled operators, devices and disk.

    Args:
        json: print one JSON object in place of the table.
    """
    from moto_pl.doctor import run_doctor

    return run_doctor(as_json=json)


def report(run: Path, against: Sequence[Path] = ()) -> int:
    """Write a run's report.html.

    Args:
        run: the run's directory (trainer.default_root_dir).
        against: runs to compare it with.
    """
    from moto_pl.report.page import write_report

    print(f"report: {write_report(run, against)}")
    return 0


def watch(run: Path, *, once: bool = False, every: float = 5.0) -> int:
    """Show how a run goes, from another terminal: progress, figures, evaluations, speed, errors. Ctrl-C leaves it.

    Args:
        run: the run's directory (trainer.default_root_dir).
        once: print it once and end, for scripts.
        every: seconds between looks.
    """
    from moto_pl.report.watch import run_watch

    return run_watch(run, every, once)


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


def play(
    checkpoint: Path | None = None,
    *,
    pretrained: str | None = None,
    episodes: int = 4,
    mode: Literal["mode", "sample"] = "mode",
    seed: int = TEST_SEEDS,
    out: Path | None = None,
    device: str = "cpu",
) -> int:
    """Roll a checkpoint's policy in its environment; print what it came to, and film it.

    Args:
        checkpoint: in its run's directory, whose config.yaml names the environment.
        pretrained: in place of a checkpoint, the name of a policy that comes with the package.
        episodes: how many; they stand side by side in the film.
        mode: the likeliest action, or a draw.
        seed: of the environment in the first episode; the default is the first of the test seeds.
        out: the film, which ends in .mp4; null is videos/ in the run, or NAME.mp4 of a pretrained one.
        device: where the policy computes, such as cpu or cuda.
    """
    from moto_pl.deploy.play import run_play

    return run_play(checkpoint, pretrained, episodes, mode, seed, out, device)


def push(
    run: Path,
    name: str,
    *,
    checkpoint: Literal["best", "last"] = "best",
    license: str = "mit",
    private: bool = False,
    dry_run: bool = False,
) -> int:
    """Put a run's policy on the hub: weights, settings, a model card with its evaluations, films, licence.

    Args:
        run: the run's directory (trainer.default_root_dir).
        name: of the repository, org/name, which is made where it is missing.
        checkpoint: which weights.
        license: of the weights, as the hub calls it, such as mit or apache-2.0.
        private: make a new repository private.
        dry_run: list what would be pushed, and push nothing.
    """
    from moto_pl.deploy.push import run_push

    return run_push(run, name, checkpoint, license, private, dry_run)


def export(checkpoint: Path, out: Path, *, control_rate: float | None = None, steps: int = 1000) -> int:
    """Write a policy's step as ONNX or as a torch.export archive, which run without this package.

    Args:
        checkpoint: of any agent.
        out: the file: NAME.onnx, or NAME.pt2; what goes in and comes out is written to OUT.json.
        control_rate: actions a second that the policy was trained at, for whoever runs it; null is not known.
        steps: in which the file is compared with the agent before it is written.
    """
    from moto_pl.deploy.export import run_export

    return run_export(checkpoint, out, control_rate, steps)


def serve(
    checkpoint: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    mode: Literal["mode", "sample"] = "mode",
    device: str = "cpu",
    seed: int = 0,
) -> int:
    """Answer observations with a policy's actions over HTTP, for a control loop in another process.

    Args:
        checkpoint: of any agent.
        host: an address of this machine; the default can be reached from this machine alone.
        port: where to listen; 0 takes a free one.
        mode: the likeliest action, or a draw.
        device: where the policy computes, such as cpu or cuda.
        seed: names the draws.
    """
    from moto_pl.deploy.serve import run_serve

    return run_serve(checkpoint, host, port, mode, device, seed)


def completion(shell: Literal["bash", "zsh"]) -> int:
    """Print what a shell needs to complete verbs and options: eval "$(moto completion bash)".

    Args:
        shell: yours.
    """
    groups = {name: import_module(module).VERBS for name, (module, _) in GROUPS.items()}
    print(completion_script("moto", VERBS, groups, {verb: COMMON_OPTIONS for verb in LIGHTNING_VERBS}, shell))
    return 0


_GOES_ON = "a run goes on from its last checkpoint."
_ELSEWHERE = f"Use a directory that can be written; {_GOES_ON}"
_FREE = f"Free space, or use another disk; {_GOES_ON}"
_FAILED = f"Look whether the disk is there and sound; {_GOES_ON}"
#: What a disk or its permissions refuse, and what helps.
_DISK = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: f"Raise the limit on a file's size (ulimit -f); {_GOES_ON}",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EIO: _FAILED,
    errno.ESTALE: _FAILED,
    errno.EISDIR: "Move the directory away: a file is to stand there.",
}
#: Verbs that have verbs of their own: the module whose ``VERBS`` they are, and what they are for.
GROUPS = {
    "data": (
        "moto_pl.datasets.commands",
        "Build, import, export, render, describe, show and list datasets of demonstrations.",
    ),
    "analyze": ("moto_pl.analysis.commands", "Ask what a model knows, and what it knows that it does not know."),
}
#: What is completed of a verb whose options, a thousand and more, only its configuration knows.
COMMON_OPTIONS = ("--config", "--size", "--agent", "--trust", "--print_config", "--seed_everything", "--help")
#: All verbs, in the order in which they are shown.
VERBS: dict[str, Verb | str] = {
    "fit": "Pre-train on demonstrations, then fine-tune online.",
    "validate": "Evaluate a checkpoint on the evaluation seeds.",
    "test": "Evaluate a checkpoint on the test seeds.",
    "data": GROUPS["data"][1],
    "doctor": Verb(doctor),
    "watch": Verb(watch),
    "report": Verb(report),
    "compare": Verb(compare),
    "analyze": GROUPS["analyze"][1],
    "play": Verb(play, positional=("checkpoint",)),
    "push": Verb(push),
    "export": Verb(export),
    "serve": Verb(serve),
    "reproduce": Verb(reproduce, positional=("target",)),
    "demo": Verb(demo),
    "campaign": Verb(campaign),
    "completion": Verb(completion),
}


def entry() -> NoReturn:
    """The process of ``moto``: it ends without looking for garbage among all that it has imported, which takes up to a
    second.
    """
    atexit.register(gc.freeze)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, the process's own where none is given.

    Returns:
        The exit status; bad input is one line on stderr and status 2.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.obeyed():
            status = run(args)
            sys.stdout.flush()
            return status
    except SettingError as error:
        tell(f"{error.details}moto: {error}")
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        # Wherever it is written; any other is a fault of ours, and shows where.
        if error.errno is None or error.errno not in _DISK:
            raise
        where = " to ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
        tell(f"moto: {where or 'the disk'}: found {error.strerror}. {_DISK[error.errno]}")
        return 2
    except signals.Stopped as stopped:
        tell(f"moto: ended by {stopped.name}")
        return 128 + stopped.number


def _nobody_reads() -> bool:
    """Whether it is the output that nobody reads any more, as in ``moto ... | head``; what is left of it is let go."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, or a closed one
        return False
    asked = select.poll()
    asked.register(output, 0)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def run(args: Sequence[str]) -> int:
    """Runs a command line; returns the exit status.

    Raises:
        SettingError: bad input.
    """
    if args and args[0] == "--version":
        from moto_pl.doctor import version_line

        print(version_line())
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
    entry()
