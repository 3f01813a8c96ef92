"""Takes a dataset's episodes into a run's replay, once, and notices where the dataset is not the same any more."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moto_pl.envs.actions import ActionScale, ActionScaling
from moto_pl.envs.observation import IMAGE_SIZE, Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.files import write_whole
from moto_pl.replay import EpisodeStore
from moto_pl.replay.store import HELD_OUT, MARKER

if TYPE_CHECKING:
    from moto_pl.datasets.minari_io import DatasetReader

#: What a marker says where it is not what the papers have.
_UNUSUAL = ("observation", "scaling", "image_size", "action_repeat")
#: What a marker says of the replay itself, whatever settings have that name: ``episodes`` is also asked of a builder.
_OWN = ("fingerprint", "episodes", "longest", "action_scale", "observed")
#: A number whose standard deviation is below this share of its size, or of 1, does not vary.
_CONSTANT = 1e-6


def ingest(
    reader: DatasetReader,
    names: dict[str, Any],
    replay: Path,
    max_bytes: int | None = None,
    scaling: ActionScaling = "bounds",
) -> None:
    """Copies the dataset's episodes into the replay; goes on where a killed run stopped.

    Args:
        reader: the dataset.
        names: what the run says of it: ``dataset``, ``val_episodes`` (how many of the last are held out), and more;
            ``observation``, where that is not the image alone; ``scaling``, where that is not ``bounds``; and
            ``image_size`` and ``action_repeat``, where they are not 64 and 1.
        replay: the replay's directory.
        max_bytes: largest size of the replay.
        scaling: what its actions are scaled by.

    Raises:
        SettingError: the replay was begun with another dataset, or with another content of this one; the dataset
            cannot be read or is not what is trained on; or no episode is left to train on.
    """
    names = {name: value for name, value in names.items() if name not in _OWN}
    fingerprint = reader.fingerprint()
    known = _read(replay)
    if known is not None:
        _compare(known, names, fingerprint, replay)
        if "episodes" in known:
            return
    if scaling == "percentile":
        reader.scale, reader.clips = ActionScale.of_data(reader.own_actions()), True
    lengths = reader.check(image_size=names.get("image_size", IMAGE_SIZE))
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
    if scaling != "bounds" or not reader.scale.identity:
        marker["action_scale"] = asdict(reader.scale)
    if reader.observation.vector_size:
        marker["observed"] = asdict(_with_statistics(reader.observation, store, training))
    write_whole(replay / MARKER, json.dumps(marker).encode())


def _with_statistics(observation: Observation, store: EpisodeStore, episodes: int) -> Observation:
    """What is observed, with mean and standard deviation over all frames of the first episodes of a store."""
    rows = np.concatenate([np.asarray(store[i].vector, np.float64) for i in range(episodes)])
    mean, std = rows.mean(0), rows.std(0)
    std[std <= _CONSTANT * np.maximum(np.abs(mean), 1.0)] = 1.0
    # As networks keep them: what is written down is what they have.
    return replace(observation, mean=_single(mean), std=_single(std))


def _single(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values.astype(np.float32)))


def observed(replay: Path, wanted: ObservationConfig, image_size: int = IMAGE_SIZE) -> Observation | None:
    """What the replay's demonstrations hold, with its statistics; None where it has taken in none."""
    known = _read(replay)
    if known is None or "episodes" not in known:
        return None
    if "observed" not in known:
        return Observation.of(wanted, {}, image_size)
    try:
        return Observation.from_plain(known["observed"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        path = replay / MARKER
        raise SettingError(str(path), f"a damaged file ({error})", "Use another trainer.default_root_dir.") from None


def action_scale(replay: Path) -> ActionScale | None:
    """What -1 and 1 stand for in the replay's demonstrations; None: themselves, or there are none."""
    try:
        return ActionScale.from_plain((_read(replay) or {}).get("action_scale"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        path = replay / MARKER
        raise SettingError(str(path), f"a damaged file ({error})", "Use another trainer.default_root_dir.") from None


def has_ingested(replay: Path) -> bool:
    """Whether the replay has taken in all of a dataset."""
    return "episodes" in (_read(replay) or {})


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
    return max((episode.length for episode in store.known[: int(known["episodes"])]), default=None)


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
    if any(known.get(name) != names.get(name) for name in (*names, *_UNUSUAL)):
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
