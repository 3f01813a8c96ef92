"""Policies that come with the package, for ``moto play --pretrained``: where they lie, and how they are made.

Each is a folder laid out as a run is: ``checkpoints/policy.ckpt`` and a ``config.yaml`` with its environment. The
index, which comes with the package, holds the checksum of every file, so that a folder in the user's cache is the one
that was released and no other.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml

from moto_pl.agents.loading import load_agent
from moto_pl.analysis.episodes import environment_of, roll_own
from moto_pl.deploy.weights import acting, halved
from moto_pl.errors import SettingError
from moto_pl.files import bytes_text, make_directory, whole, write_whole
from moto_pl.hub import WEIGHTS
from moto_pl.reading import read_bytes, read_json
from moto_pl.report.records import read_run
from moto_pl.rollout.roll import TEST_SEEDS

PACKAGED = Path(__file__).parent / "pretrained"
INDEX = "index.json"
MAX_BYTES = 1 << 28
#: Successes that half precision may cost, of the episodes that it is tried on: rounding moves single episodes.
MOST_LOST = 1


def cached() -> Path:
    """The folder of the user's cache in which a released folder may lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "moto_pl" / "pretrained"


def index(folder: Path = PACKAGED) -> dict[str, Any]:
    """What was released, by name: the SHA-256 of each of its files, and what it came to."""
    found: dict[str, Any] = read_json(folder / INDEX, dict[str, dict])
    return found


def find(name: str) -> Path:
    """The checkpoint of a policy that was released, every file of which is as it was.

    Raises:
        SettingError: there is none, it is not here, or it is another.
    """
    released = index()
    if name not in released:
        others = f"Give one of {', '.join(released)}, or train" if released else "None was released yet: train"
        fix = f"{others} one with moto demo, and play its checkpoint: moto play CHECKPOINT."
        raise SettingError("--pretrained", repr(name), fix)
    files: dict[str, str] = released[name]["files"]
    for folder in (PACKAGED / name, cached() / name):
        if not folder.is_dir():
            continue
        for file, wanted in files.items():
            _check(folder / file, folder, wanted)
        return folder / WEIGHTS
    fix = f"Put the release's folder {name} into {cached()}."
    raise SettingError("--pretrained", f"{name}, which did not come with this installation", fix)


def _check(path: Path, folder: Path, wanted: str) -> None:
    try:
        found = hashlib.sha256(read_bytes(path, MAX_BYTES, folder)).hexdigest()
    except (OSError, ValueError) as error:
        found = str(error)
    if found != wanted:
        fix = f"Remove {folder} and put the released one there, or install the package again."
        raise SettingError("--pretrained", f"{path}, which is not the file that was released", fix)


def release(run: Path, name: str, checkpoint: str = "best", episodes: int = 20, folder: Path = PACKAGED) -> str:
    """Makes a policy's folder and its line in the index from a finished run; returns what it came to.

    The weights are those that act, without the optimizer, in half precision where that costs at most ``MOST_LOST``
    successes of the test episodes that both are tried on.

    Args:
        run: the run's directory.
        name: of the policy.
        checkpoint: ``best`` or ``last``.
        episodes: test episodes.
        folder: where to put it.

    Raises:
        SettingError: the run has no such checkpoint, or no environment.
    """
    path = run / "checkpoints" / f"{checkpoint}.ckpt"
    full = acting(path)
    found = environment_of(run, "run")
    limit = read_run(run).setting("data", "max_episode_steps")
    kept = {
        "env": found.env,
        "env_options": found.options,
        "action_repeat": found.action_repeat,
        "max_episode_steps": limit,
    }
    target = folder / name
    make_directory(target / "checkpoints")
    settings = {"data": kept, "model": {"class_path": full["agent"]["class_path"]}}
    write_whole(target / "config.yaml", yaml.safe_dump(settings).encode())
    came: dict[str, int] = {}
    for precision, content in (("single", full), ("half", halved(full))):
        _save(content, target / WEIGHTS)
        rolled = roll_own(load_agent(target / WEIGHTS, setting="run"), target, episodes, setting="run")
        came[precision] = sum(episode.succeeded for episode in rolled)
    precision = "half" if came["half"] >= came["single"] - MOST_LOST else "single"
    if precision == "single":
        _save(full, target / WEIGHTS)
    said = f"success in {came[precision]} of {episodes} episodes, seeds from {TEST_SEEDS}"
    names = (WEIGHTS, "config.yaml")
    files = {file: hashlib.sha256((target / file).read_bytes()).hexdigest() for file in names}
    known = index(folder) if (folder / INDEX).is_file() else {}
    entries = {**known, name: {"files": files, "evaluated": said}}
    write_whole(folder / INDEX, json.dumps(entries, indent=2, sort_keys=True).encode() + b"\n")
    size = bytes_text((target / WEIGHTS).stat().st_size)
    return f"{target}: {size} in {precision} precision; {said} (single {came['single']}, half {came['half']})"


def _save(content: dict[str, Any], path: Path) -> None:
    with whole(path) as file:
        torch.save(content, file)
