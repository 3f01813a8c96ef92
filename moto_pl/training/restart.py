"""What a run's directory holds where no checkpoint can be gone on from, and how it is moved aside."""

from __future__ import annotations

import os
from pathlib import Path

from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.schedule import Schedule
from moto_pl.training.ingest import ingested

#: Of a run's directory, what stays where it is: the lock is held, and a campaign is writing its log.
_STAYS = (".lock", "log.txt")
_ASIDE = "before_restart_"


def refuse_lost_progress(root: Path, damaged: dict[str, str], schedule: Schedule, every_n_rounds: int) -> None:
    """Refuses to begin anew where a run has been further than its first checkpoint.

    A run that was killed before its first checkpoint may hold an evaluation and episodes: it begins anew, and comes to
    the same ones again.

    Args:
        root: the run's directory, in which no checkpoint is whole.
        damaged: its checkpoints, and what is wrong with each.
        schedule: the run's.
        every_n_rounds: rounds between checkpoints.

    Raises:
        SettingError: says what there is.
    """
    ends = [index for index in (every_n_rounds, schedule.offline_rounds, schedule.rounds) if index > 0]
    rounds = min(ends, default=0)
    found = [f"{name} (damaged: {reason})" for name, reason in damaged.items()]
    step = max((record["step"] for record in read_evaluations(root)), default=0)
    if step > schedule.start_of(rounds):
        found.append(f"evaluations up to step {step}")
    episodes = _online_episodes(root / "replay")
    if episodes > max(0, rounds - schedule.offline_rounds) * schedule.episodes_per_round:
        found.append(f"{episodes} online episodes")
    if found:
        raise SettingError(
            "trainer.default_root_dir",
            f"{root}, which holds {', '.join(found)} and no whole checkpoint to go on from",
            "Put one back as checkpoints/last.ckpt, or give --restart, which moves all of it aside and begins anew.",
        )


def _online_episodes(replay: Path) -> int:
    """Episodes beyond those of the dataset."""
    try:
        offline = ingested(replay)
    except (SettingError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return 0  # the dataset was not taken in whole yet
    return max(0, len(list(replay.glob("*.safetensors"))) - offline)


def move_aside(root: Path) -> Path | None:
    """Moves all that a run's directory holds into a new directory in it; returns that, or None if there is nothing."""
    moved = [path for path in root.iterdir() if path.name not in _STAYS and not path.name.startswith(_ASIDE)]
    if not moved:
        return None
    number = 1
    while (target := root / f"{_ASIDE}{number}").exists():
        number += 1
    target.mkdir()
    # The checkpoints last: where this is cut short, the run is still seen to have been further.
    for path in sorted(moved, key=lambda path: path.name == "checkpoints"):
        os.rename(path, target / path.name)
    return target
