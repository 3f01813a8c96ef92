"""Episodes that are kept until their dataset is whole: the same call goes on where a killed one stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto_pl.datasets.minari_io import target_path
from moto_pl.datasets.staging import held_parts
from moto_pl.errors import SettingError

if TYPE_CHECKING:  # it imports torch, which a list of verbs does not wait for
    from moto_pl.replay.store import EpisodeStore


@contextmanager
def unfinished(
    target: str | os.PathLike[str], settings: Mapping[str, Any], work: str, done: str
) -> Iterator[EpisodeStore]:
    """The finished episodes of a dataset, in a hidden directory beside it, which goes once the block ends.

    A refusal within the block leaves nothing; a full disk, and whatever ends the process, leave what is finished.

    Args:
        target: the dataset's id or path.
        settings: JSON-able: all that decides what the episodes are.
        work: what is done to them, in a word for people, such as ``import``.
        done: what they are then: ``imported``.

    Yields:
        A store that begins with what an earlier call has finished; nothing where a disk has lost some of that.

    Raises:
        SettingError: half done with other settings, or another process is at it.
    """
    path, _ = target_path(target)
    parts = path.parent / f".{path.name}.{work}ing"
    with held_parts(parts, settings, work, done):
        try:
            yield _whole_parts(parts)
        except SettingError as error:
            if not error.setting.startswith(str(parts)):
                shutil.rmtree(parts)
            raise
        shutil.rmtree(parts)


def _whole_parts(parts: Path) -> EpisodeStore:
    from moto_pl.replay.store import EpisodeStore

    try:
        store = EpisodeStore(parts)
        store.verify()
    except SettingError:
        for part in parts.glob("*.safetensors"):
            part.unlink()
        store = EpisodeStore(parts)
    return store
