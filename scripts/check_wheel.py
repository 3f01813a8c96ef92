"""Builds sdist and wheels, installs them in bare environments, and uses them there as somebody would who has no clone.

    python scripts/check_wheel.py python3.11 python3.12 python3.13

For each interpreter: an environment with the torch of constraints.txt, the sdist, the wheel with compiled operators
that it builds (against that torch), ``moto --version``, ``moto doctor --json``, a debug run and its report. Then the
wheel for any machine (``MOTO_BUILD=0``) in its place: the PyTorch references serve, and the same run has the same
evaluations. It takes minutes for an interpreter on two idle cores, and 2 to 7 GB for its torch; ``MOTO_CUDA=0`` is
quicker. The wheels stay in ``dist/`` of the work directory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
BUILD = ("build", "setuptools>=77", "pybind11>=2.13", "cmake>=3.22", "ninja")


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Runs a program without this clone in sight; returns what it prints. What fails is shown and ends the check."""
    shown = " ".join(command)
    print(f"$ {shown}", flush=True)
    away = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env={**away, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\ncheck_wheel: exit status {done.returncode} of: {shown}")
    return done.stdout


def environment(interpreter: str, work: Path) -> Path:
    """An environment's ``bin``: torch, and what builds the operators; taken up again where it is there."""
    version = run(interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])", cwd=work).strip()
    path = work / f"venv-{version}"
    if not path.exists():
        run(interpreter, "-m", "venv", str(path), cwd=work)
    pip(path / "bin", *CONSTRAINTS, "torch", *BUILD, cwd=work)
    return path / "bin"


def pip(programs: Path, *args: str, cwd: Path) -> None:
    """Installs packages in an environment."""
    run(str(programs / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *args, cwd=cwd)


def install(programs: Path, wheel: Path, work: Path) -> None:
    """Installs a wheel with what it depends on, in place of an earlier one."""
    run(str(programs / "python"), "-m", "pip", "uninstall", "-q", "-y", "moto_pl", cwd=work)
    pip(programs, *CONSTRAINTS, str(wheel), cwd=work)


def build(programs: Path, work: Path, mode: str) -> Path:
    """Makes the sdist from the clone, and from it alone a wheel; returns the wheel."""
    out = work / "dist" / f"{programs.parent.name.removeprefix('venv-')}-{mode}"
    shutil.rmtree(out, ignore_errors=True)
    python = str(programs / "python")
    run(python, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT), cwd=work, env={"MOTO_BUILD": mode})
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    print(f"  {sdist.name} {sdist.stat().st_size / 1e6:.2f} MB, {wheel.name} {wheel.stat().st_size / 1e6:.2f} MB")
    return wheel


def use(programs: Path, place: Path, compiled: bool) -> list[str]:
    """Asks the doctor, trains the debug configuration and writes its report; returns which evaluations there were."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    moto, python = str(programs / "moto"), str(programs / "python")
    found = Path(run(python, "-c", "import moto_pl; print(moto_pl.__file__)", cwd=place).strip())
    require(programs.parent in found.parents, f"{found} is imported, not what was installed")
    print(f"  {run(moto, '--version', cwd=place).strip()}")
    report = json.loads(run(moto, "doctor", "--json", cwd=place))
    for finding in report["findings"]:
        print(f"  {finding['state']:4}  {finding['what']}: {finding['found']}")
    operators = next(finding for finding in report["findings"] if finding["what"] == "compiled operators")
    require((operators["state"] == "good") == compiled, f"compiled operators: {operators['found']}")
    where = "from moto_pl.training.configs import config_path; print(config_path('debug'))"
    config = run(python, "-c", where, cwd=place).strip()
    run(moto, "fit", "--config", config, "--trainer.default_root_dir", "run", cwd=place)
    require((place / "run/checkpoints/last.ckpt").is_file(), "the debug run left no checkpoint")
    run(moto, "report", "run", cwd=place)
    require((place / "run/report.html").stat().st_size > 10_000, "the report is empty")
    records = [json.loads(line) for line in (place / "run/evaluations.jsonl").read_text().splitlines()]
    return [f"{record['stage']} {record['phase']} {record['step']}" for record in records]


def require(holds: bool, otherwise: str) -> None:
    """Ends the check, in one line, where something does not hold."""
    if not holds:
        sys.exit(f"check_wheel: {otherwise}")


def main() -> None:
    """Checks each interpreter named, or the one that runs this."""
    parser = argparse.ArgumentParser(description="Builds, installs and uses sdist and wheels in bare environments.")
    parser.add_argument("interpreters", nargs="*", default=[sys.executable], help="python3.11 python3.12 ...")
    parser.add_argument("--work", type=Path, help="a directory for all of it, which stays; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for interpreter in args.interpreters:
            programs = environment(interpreter, work)
            install(programs, build(programs, work, "require"), work)
            before = use(programs, work / "use", compiled=True)
            wheel = build(programs, work, "0")
            require(wheel.name.endswith("-py3-none-any.whl"), f"{wheel.name} is not for any machine")
            install(programs, wheel, work)
            after = use(programs, work / "use", compiled=False)
            require(before == after, f"evaluations: {before} and then {after}")
            print(f"check_wheel: {programs.parent.name}: installs, and works with and without the compiled operators")


if __name__ == "__main__":
    main()
