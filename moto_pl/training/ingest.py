"""Takes a dataset's episodes into a run's replay, once, and notices where the dataset is not the same any more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto_pl.errors import SettingError
from moto_pl.files import write_whole
from moto_pl.nn.image import IMAGE_SIZE
from moto_pl.replay import EpisodeStore
from moto_pl.replay.store import HELD_OUT, MARKER

if TYPE_CHECKING:
    from moto_pl.datasets.minari_io import DatasetReader


def ingest(reader: DatasetReader, names: dict[str, Any], replay: Path, max_bytes: int | None = None) -> None:
    """Copies the dataset's episodes into the replay; goes on where a killed run stopped.

    Args:
        reader: the dataset.
        names: what the run says of it: ``dataset``, ``val_episodes`` (how many of the last are held out), and more.
        replay: the replay's directory.
        max_bytes: largest size of the replay.

    Raises:
        SettingError: the replay was begun with another dataset, or with another content of this one; the dataset
            cannot be read or is not what is trained on; or no episode is left to train on.
    """
    fingerprint = reader.fingerprint()
    known = _read(replay)
    if known is not None:
        _compare(known, names, fingerprint, replay)
        if "episodes" in known:
            return
    lengths = reader.check(image_size=IMAGE_SIZE)
    training = len(reader) - names["val_episodes"]
    if training < 1:
        raise SettingError(
            "data.val_episodes",
            names["val_episodes"],
            f"{names['dataset']} has {len(reader)} episodes: leave one to train on.",
        )
    store, held_out = EpisodeStore(replay, max_bytes), EpisodeStore(replay / HELD_OUT)
    marker = {**names, "fingerprint": fingerprint}
    write_whole(replay / MARKER, json.dumps(marker).encode())
    for i, episode in enumerate(reader):
        target, index = (store, i) if i < training else (held_out, i - training)
        if index >= len(target):
            target.append(episode, index)
    marker |= {"episodes": training, "longest": max(lengths)}
    write_whole(replay / MARKER, json.dumps(marker).encode())


def ingested(replay: Path) -> int:
    """How many episodes of the replay are the dataset's."""
    return int((_read(replay) or {})["episodes"])


def longest_demonstration(replay: Path) -> int | None:
    """Steps of the longest episode of the dataset that the replay began with; None where it has taken in none."""
    known = _read(replay)
    if known is None or "episodes" not in known:
        return None
    if "longest" in known:
        return int(known["longest"])
    store = EpisodeStore(replay)  # of a run from before this was written down
    return max((store[i].length for i in range(min(len(store), int(known["episodes"])))), default=None)


def _read(replay: Path) -> dict[str, Any] | None:
    path = replay / MARKER
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text())
        if isinstance(known, dict):
            return known
        found = "no object"
    except (OSError, ValueError) as error:
        found = str(error)
    raise SettingError(str(path), f"a file that cannot be read ({found})", "Use another trainer.default_root_dir.")


def _compare(known: dict[str, Any], names: dict[str, Any], fingerprint: str, replay: Path) -> None:
    """Refuses another dataset than the replay holds. A run from before fingerprints has none to compare."""
    if any(known.get(name) != value for name, value in names.items()):
        raise SettingError(
            "data.dataset", f"{names}, but {replay / MARKER} holds {known}", "Use another trainer.default_root_dir."
        )
    if known.get("fingerprint", fingerprint) != fingerprint:
        raise SettingError(
            "data.dataset",
            f"{names['dataset']}, whose content has changed since this run took it into {replay}",
            "Put back the dataset that the run began with to go on, or train on this one in another "
            "trainer.default_root_dir.",
        )
