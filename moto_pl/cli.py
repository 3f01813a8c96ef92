"""The command line: ``moto fit | validate | test`` are Lightning's, the other verbs are ours."""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import moto_pl
from moto_pl import signals
from moto_pl.errors import SettingError

LIGHTNING_VERBS = ("fit", "validate", "test")

#: Packages whose classes a configuration file may name without being trusted by hand.
TRUSTED = ("moto_pl", "lightning")
# These call any function that a configuration names.
_CALLS_ANYTHING = ("LambdaCallback",)
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``moto``. Returns the exit status; bad input is one line on stderr and status 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with signals.obeyed():
            if args and args[0] in LIGHTNING_VERBS:
                run_lightning(args)
                return 0
            return run_verb(args)
    except SettingError as error:
        print(f"{error.details}moto: {error}", file=sys.stderr)
        return 2
    except signals.Stopped as stopped:
        print(f"moto: ended by {stopped.name}", file=sys.stderr)
        return 128 + stopped.number


def run_verb(args: Sequence[str]) -> int:
    """The verbs that train nothing."""
    from moto_pl.analysis.commands import add_analyze_parser
    from moto_pl.data.commands import add_data_parser

    parser = argparse.ArgumentParser(prog="moto", description="MOTO: from image demonstrations to a policy.")
    parser.add_argument("--version", action="version", version=f"moto_pl {moto_pl.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in (
        ("fit", "pre-train on demonstrations, then fine-tune online"),
        ("validate", "evaluate a checkpoint on the evaluation seeds"),
        ("test", "evaluate a checkpoint on the test seeds"),
    ):
        verbs.add_parser(verb, help=f"{text} (moto {verb} --help)", add_help=False)
    add_data_parser(verbs)
    verbs.add_parser("doctor", help="check rendering, compiled ops, devices and disk")
    report = verbs.add_parser("report", help="write a run's report.html")
    report.add_argument("run", type=Path, help="the run's directory (trainer.default_root_dir)")
    report.add_argument("--against", type=Path, nargs="+", default=[], help="runs to compare it with", metavar="RUN")
    compare = verbs.add_parser("compare", help="compare methods: table, learning curves, page")
    compare.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="directories of runs; seeds of a method are found"
    )
    compare.add_argument("--metric", choices=("success", "objects", "return"), help="default: objects, else success")
    compare.add_argument("--out", type=Path, default=Path("comparison"), help="directory to write to")
    add_analyze_parser(verbs)
    reproduce = verbs.add_parser("reproduce", help="the paper's tables and figures beside ours")
    targets = ("table1", "kitchen-data", "figure5", "figure6")
    reproduce.add_argument("target", nargs="?", choices=targets, help="none: say what has been run")
    reproduce.add_argument("--scale", choices=("cpu", "paper"), default="cpu", help="how much is done (cpu)")
    reproduce.add_argument("--out", type=Path, default=Path("reproduction"), help="directory for results")
    reproduce.add_argument("--runs", type=Path, default=Path("runs/reproduce"), help="directory of the training run")
    demo = verbs.add_parser("demo", help="demonstrations, training and report of one task, on a CPU")
    demo.add_argument("--dir", type=Path, default=Path("runs/demo"), help="the run's directory")
    parsed = parser.parse_args(args)
    if parsed.verb == "doctor":
        from moto_pl.doctor import run_doctor

        return run_doctor()
    if parsed.verb == "report":
        from moto_pl.report import write_report

        print(f"report: {write_report(parsed.run, parsed.against)}")
        return 0
    if parsed.verb == "compare":
        from moto_pl.compare import run_compare

        return run_compare(parsed.runs, parsed.out, parsed.metric)
    if parsed.verb == "reproduce":
        from moto_pl.reproduce import run_reproduce

        return run_reproduce(parsed.target, parsed.scale, parsed.out, parsed.runs)
    if parsed.verb == "demo":
        from moto_pl.demo import run_demo

        return run_demo(parsed.dir)
    return int(parsed.run(parsed))


def config_path(name: str) -> Path:
    """A configuration that comes with the package: ``debug`` or ``metaworld/door_open``."""
    roots = (
        Path(moto_pl.__file__).parent.parent / "configs",
        Path(sysconfig.get_path("data")) / "share/moto_pl/configs",
    )
    for root in roots:
        path = root / f"{name}.yaml"
        if path.exists():
            return path
    raise SettingError("config", name, f"No such file under {' or '.join(map(str, roots))}.")


def expand_configs(args: Sequence[str]) -> list[str]:
    """Puts the configurations that a configuration ``extends`` before it, so that it overrides them.

    ``extends`` is a path, or a list of them, relative to the file that names it. A file may name classes of ours and of
    Lightning's alone, because others' files should not run others' code; ``--trust PACKAGE`` allows one more. What the
    user types is the user's own, and is not looked at.
    """
    trusted, args = _trusted(args)
    expanded: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, given, value = arg.partition("=")
        if name not in ("--config", "-c"):
            expanded.append(arg)
            continue
        path = value if given else next(rest, None)
        if path is None:
            expanded.append(arg)
            continue
        for ancestor in _lineage(Path(path), (), trusted):
            expanded += ["--config", str(ancestor)]
    return expanded


def _trusted(args: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The packages that may be named, and the arguments without ``--trust``."""
    trusted, others = list(TRUSTED), []
    rest = iter(args)
    for arg in rest:
        name, given, value = arg.partition("=")
        if name != "--trust":
            others.append(arg)
            continue
        package = value if given else next(rest, None)
        if package is None:
            raise SettingError("--trust", "nothing", "Name a package, such as --trust my_package.")
        trusted.append(package)
    return tuple(trusted), others


def check_trust(content: Any, path: Path, trusted: tuple[str, ...] = TRUSTED) -> None:
    """Raises a SettingError where a configuration file names code of a package that is not trusted."""
    for name, value in _strings(content):
        if name.split(".")[0] == "extends":
            continue
        if value.endswith((".yaml", ".yml", ".json")):  # the argument parser reads a section from a file of its own
            for nested in {(base / value).resolve() for base in (Path(), path.parent)} - {path.resolve()}:
                if nested.is_file():
                    check_trust(_read_yaml(nested), nested, trusted)
            continue
        module, colon, _ = value.partition(":")
        # gymnasium imports the module of "module:id"; the argument parser what an import path names.
        if not (_IMPORT_PATH.fullmatch(value) or (colon and _IMPORT_PATH.fullmatch(f"{module}.x"))):
            continue
        package = module.split(".")[0]
        if value.split(".")[-1] in _CALLS_ANYTHING or (package not in trusted and _importable(package)):
            fix = f"If you trust it, say so: --trust {package}. It may then run whatever it likes."
            if package in trusted:
                fix = "It calls whatever the file names: write a callback of your own instead."
            raise SettingError(name, f"{value} in {path}", fix)


def _strings(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a YAML document that is a string, with its place."""
    if isinstance(content, str):
        yield name or "file", content
    elif isinstance(content, dict):
        for key, value in content.items():
            place = f"{name}.{key}" if name else str(key)
            yield from _strings(value, place)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _strings(value, f"{name}[{index}]")


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _lineage(path: Path, below: tuple[Path, ...], trusted: tuple[str, ...] = TRUSTED) -> list[Path]:
    if path in below:
        raise SettingError("extends", f"a circle through {path}", "Remove one of the links.")
    content = _read_yaml(path)
    check_trust(content, path, trusted)
    parents = (content or {}).get("extends", []) if isinstance(content, dict) else []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise SettingError("extends", f"{parents!r} in {path}", "Give a path, or a list of them.")
    lineage: list[Path] = []
    for parent in parents:
        lineage += _lineage((path.parent / parent).resolve(), (*below, path), trusted)
    return [*lineage, path]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingError("--config", path, f"{error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SettingError("--config", f"{path}, which is not YAML ({reason})", "Correct it.") from None


def run_lightning(args: Sequence[str]) -> None:
    """Runs one of Lightning's verbs."""
    _quiet()
    from moto_pl.training import MotoCLI

    try:
        MotoCLI.run(expand_configs(args))
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        # The argument parser wraps what a class says of its settings in the history of its attempts.
        cause = _setting_error(error)
        if cause is not None:
            raise cause from None
        if isinstance(error, argparse.ArgumentError):
            raise SettingError("arguments", str(error).strip(), f"See moto {args[0]} --help.") from None
        raise


def _setting_error(error: BaseException | None) -> SettingError | None:
    """The SettingError in an exception's history, if there is one."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        error = queue.pop(0)
        if isinstance(error, SettingError):
            return error
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            queue += [error.__cause__, error.__context__]
    return None


def _quiet() -> None:
    """Lightning's advertisements and advice that does not apply to rounds as epochs."""
    import logging
    import warnings

    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not ours
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
    )
    for message in (
        ".*is smaller than the logging interval.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The `srun` command is available.*",
        ".*in eval mode at the start of training.*",
        ".*Starting from v1.9.0, `tensorboardX`.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Total length of `list` across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def lock_run(directory: Path) -> Any:
    """Holds a run's directory for this process; returns the open file that holds it.

    Raises:
        SettingError: where another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = open(directory / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SettingError(
            "trainer.default_root_dir",
            f"{directory}, in which another process is training",
            "Wait for it, or use another.",
        ) from None
    return file


if __name__ == "__main__":
    sys.exit(main())
