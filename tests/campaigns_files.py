"""Campaigns of tiny runs, for their tests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import warm
from runs import environment

#: A run of the debug configuration that takes seconds.
TINY = (
    *("debug", "--data.env_workers=0", "--data.eval_episodes=1", "--data.value_steps=0", "--video_episodes=0"),
    "--evaluate_untrained=false",
)
SHORT = (
    *("--data.offline_steps=2", "--data.offline_round_steps=2", "--data.online_steps=2"),
    "--data.updates_per_episode=2",
)


def write(directory: Path, dataset: Path | str = "reach", base: tuple[str, ...] = (*TINY, *SHORT), **keys: Any) -> Path:
    """A campaign of the reaching task below a directory."""
    data = {"dataset": str(dataset), "build_missing": not Path(dataset).exists()}
    content: dict[str, Any] = {
        **{"name": "tiny", "base": list(base), "tasks": {"reach": {"data": data}}, "agents": {"MOTO": []}},
        **{"runs": str(directory / "runs"), "results": str(directory / "results"), **keys},
    }
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "moto_pl.cli", "campaign", str(path), *options]


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    """A campaign in a process of its own, whose output can be read."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(path, *options), env=environment(), stdout=pipe, stderr=pipe, text=True)


def run(path: Path, *options: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """A campaign to its end; it starts warm, and its runs cold."""
    return warm.run(command(path, *options)[2:], environment(), timeout)


def processes(directory: Path) -> dict[int, Path]:
    """The ``moto fit`` processes of runs below a directory, and their helpers, by number."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        roots = [word.partition("=")[2] for word in words if word.startswith("--trainer.default_root_dir=")]
        if roots and roots[0].startswith(str(directory)) and "fit" in words and state != "Z":
            found[int(entry.name)] = Path(roots[0])
    return found


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    """What is wanted, once it is there."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def attempts(run: Path) -> int:
    """How often a run has been started."""
    log = run / "log.txt"
    return log.read_text().count("==== ") if log.exists() else 0
