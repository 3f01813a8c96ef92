"""Finds what is whole in a run's replay, and moves what is not out of the way, so that the run can go on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moto_pl.checkpoints import LAST, PREVIOUS, load_checkpoint
from moto_pl.errors import SettingError
from moto_pl.files import lock_run, make_directory, sync, write_whole
from moto_pl.reading import check, read_json
from moto_pl.replay.episode_file import check_episode
from moto_pl.replay.latents import HALVES, crc_of
from moto_pl.replay.store import HELD_OUT, MARKER

ASIDE = "damaged"
"""Where damaged files go, below the run's directory."""
_EPISODE = re.compile(r"(\d{6,})\.safetensors")
_LATENTS = re.compile(rf"({'|'.join(HALVES)})-\d{{6,}}\.pt")
_LATENT_REPLAY = {"manifest?": {f"{half}?": [{"file": str, "crc32": int}] for half in HALVES}}
_HALF_WRITTEN = re.compile(r"\.?\d+\.safetensors(\.\d+)?\.tmp")


@dataclass(frozen=True)
class Damage:
    """A file that is not whole, or not there.

    Attributes:
        path: the file.
        problem: what is wrong with it.
        then: what becomes of it.
    """

    path: Path
    problem: str
    then: str


@dataclass
class ReplayRepair:
    """What is to be done about a run's replay.

    Attributes:
        root: the run's directory; the replay's own where it lies by itself.
        replay: the directory of episodes.
        whole: episodes that are whole.
        checkpoints: whole checkpoints from which the run can go on, and their gradient steps.
        damages: the rest.
        marker: what the replay's note of its dataset is to say; None leaves it.
    """

    root: Path
    replay: Path
    whole: int = 0
    checkpoints: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    marker: dict[str, Any] | None = None

    @property
    def needed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.damages)

    def apply(self) -> None:
        """Moves what is not whole below ``damaged/``; nothing is deleted.

        Raises:
            SettingError: a process is training there.
        """
        with lock_run(self.root, "dataset"):
            if self.marker is not None:
                _move(self.root, self.replay / MARKER)
                write_whole(self.replay / MARKER, json.dumps(self.marker).encode())
            for damage in self.damages:
                if damage.path.exists():
                    _move(self.root, damage.path)

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.replay}: {self.whole} episodes are whole, {len(self.damages)} files are not"
        for damage in self.damages:
            yield f"{damage.path.relative_to(self.root)}: {damage.problem}; {damage.then}"
        for name, step in self.checkpoints.items():
            yield f"checkpoints/{name}: whole, with all that it needs; gradient step {step}"
        if self.damages and (self.root / "checkpoints").exists():
            yield self._next()

    def _next(self) -> str:
        for name in (LAST, PREVIOUS):
            if name in self.checkpoints:
                return f"the same command then goes on from checkpoints/{name}"
        if not self.checkpoints:
            return "no checkpoint is left to go on from: the same command then starts anew, with the episodes' dataset"
        name = max(self.checkpoints, key=lambda name: self.checkpoints[name])
        return f"go on with --ckpt_path {self.root / 'checkpoints' / name}"


def is_replay(path: Path) -> bool:
    """Whether a directory is a run's, or its replay."""
    return (path / "replay").is_dir() or (path / MARKER).is_file() or any(path.glob("*.safetensors"))


def look_at_replay(path: Path) -> ReplayRepair:
    """Reads every byte of a replay and of the checkpoints that need it; nothing is changed.

    Args:
        path: of a run, or of its replay.
    """
    replay = path / "replay" if (path / "replay").is_dir() else path
    found = ReplayRepair(replay.parent if replay.name == "replay" else replay, replay)
    marker = _marker(found)
    offline = marker.get("episodes", 0) if marker else 0
    broken = _look_at_episodes(found, replay, offline)
    held_out = _look_at_episodes(found, replay / HELD_OUT, 10**9)
    lost = {name for name in broken if int(name.split(".")[0]) >= offline}
    wanted = marker.get("val_episodes", 0) if marker and offline else 0
    files = [replay / f"{i:06d}.safetensors" for i in range(offline)]
    files += [replay / HELD_OUT / f"{i:06d}.safetensors" for i in range(wanted)]
    missing = [file for file in files if not file.exists()]
    found.damages += [Damage(file, "missing", _FROM_DATASET) for file in missing]
    if marker and (missing or held_out or broken - lost):
        # Without this the next start takes the dataset for taken in.
        found.marker = {name: value for name, value in marker.items() if name not in ("episodes", "longest")}
    _look_at_checkpoints(found, offline, lost)
    return found


_FROM_DATASET = "the next start takes it from the dataset again"


def _marker(found: ReplayRepair) -> dict[str, Any] | None:
    path = found.replay / MARKER
    if not path.exists():
        return None
    try:
        marker: dict[str, Any] = read_json(path, {"episodes?": int, "val_episodes?": int})
        return marker
    except (OSError, ValueError) as error:
        found.damages.append(Damage(path, f"damaged ({error})", f"moved aside; {_FROM_DATASET}"))
        return None


def _look_at_episodes(found: ReplayRepair, directory: Path, offline: int) -> set[str]:
    """Names of the damaged episodes of a directory, whose first ``offline`` are a dataset's."""
    broken = set()
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if _HALF_WRITTEN.fullmatch(path.name):
            found.damages.append(Damage(path, "half written by a process that was killed", "moved aside"))
        elif match := _EPISODE.fullmatch(path.name):
            try:
                check_episode(path)
                found.whole += 1
            except SettingError as error:
                broken.add(path.name)
                then = _FROM_DATASET if int(match[1]) < offline else "it was collected, and is collected again"
                found.damages.append(Damage(path, str(error.found), f"moved aside; {then}"))
    return broken


def _look_at_checkpoints(found: ReplayRepair, offline: int, lost: set[str]) -> None:
    """Which checkpoints are whole, with all episodes and latents that they name."""
    needed_latents: dict[Path, bool] = {}  # by file, whether it is what a checkpoint was made with
    for path in sorted((found.root / "checkpoints").glob("*.ckpt")):
        try:
            checkpoint = load_checkpoint(path)
            needed, latents = _episodes(checkpoint), _latents(checkpoint)
            step = int(checkpoint["global_step"])
        except (SettingError, KeyError, TypeError, ValueError, OverflowError) as error:
            problem = str(error.found) if isinstance(error, SettingError) else f"no checkpoint of a run ({error})"
            found.damages.append(Damage(path, problem, "moved aside"))
            continue
        names = {name for name in needed if int(name.split(".")[0]) >= offline}
        gone = sorted(name for name in names if name in lost or not (found.replay / name).exists())
        for name, crc in latents.items():
            file = found.root / "latent_replay" / name
            if crc_of(file) == crc:
                needed_latents[file] = True
            else:
                needed_latents.setdefault(file, False)
                gone.append(f"latent_replay/{name}")
        if gone:
            found.damages.append(Damage(path, f"needs {', '.join(gone)}", "moved aside"))
        else:
            found.checkpoints[path.name] = step
    for file, is_whole in needed_latents.items():
        if not is_whole and file.exists():
            found.damages.append(Damage(file, "not what any checkpoint was made with", "moved aside"))


def _episodes(checkpoint: dict[str, Any]) -> list[str]:
    """The episodes that a checkpoint names."""
    for part in checkpoint.values():
        if isinstance(part, dict) and isinstance(part.get("manifest"), list):
            return [_known_name(entry["file"], _EPISODE) for entry in part["manifest"]]
    raise ValueError("it names no episodes")


def _latents(checkpoint: dict[str, Any]) -> dict[str, int]:
    """The files of latents that a checkpoint names, and their checksums."""
    found = check(checkpoint.get("latent_replay") or {}, _LATENT_REPLAY)
    entries = [entry for half in HALVES for entry in found.get("manifest", {}).get(half, ())]
    return {_known_name(entry["file"], _LATENTS): entry["crc32"] for entry in entries}


def _known_name(name: Any, pattern: re.Pattern[str]) -> str:
    """The name of a file as this package gives it: any other may lie outside of the run."""
    if not pattern.fullmatch(str(name)):
        raise ValueError(f"it names {name!r}, which is no file of a run")
    return str(name)


def _move(root: Path, path: Path) -> None:
    target = root / ASIDE / path.relative_to(root)
    make_directory(target.parent)
    for number in range(10**6):
        free = target if not number else target.with_name(f"{target.name}.{number}")
        if not free.exists():
            break
    os.rename(path, free)
    sync(free.parent)
    sync(path.parent)
