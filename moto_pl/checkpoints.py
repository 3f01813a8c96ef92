"""Files of checkpoints: written whole, read without running anything that they contain."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from moto_pl.errors import SettingError

LAST, PREVIOUS, PRETRAINED, BEST = "last.ckpt", "previous.ckpt", "pretrained.ckpt", "best.ckpt"
_NAMES = (LAST, PREVIOUS, BEST, PRETRAINED)


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without running anything that it contains.

    Raises:
        SettingError: where the file is missing, truncated, or holds anything but tensors and plain types.
    """
    try:
        _check_sizes(path)
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise SettingError("ckpt_path", f"no file {path}", "Give the path of a checkpoint.") from None
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(
            "ckpt_path", f"{path}, which cannot be read ({reason})", "Give a whole checkpoint."
        ) from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise SettingError("ckpt_path", f"{path}, which is no checkpoint", "Give a checkpoint that moto fit wrote.")
    return checkpoint


def _check_sizes(path: str | os.PathLike[str]) -> None:
    """Refuses an archive that would unpack to more than it is, before any of it is unpacked."""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed, which no checkpoint is")


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole under another name, flushes it to the disk, then renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves; the file under ``path`` is the old one or the new one, at any moment."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # a link that waits there would have its target overwritten
            with open(temporary, "xb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SettingError(
                "trainer.default_root_dir",
                f"{path} could not be written ({error.strerror})",
                "Free disk space and run the same command again: the last checkpoint is whole.",
            ) from error
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with ``weights_only=True``, whatever is asked for."""
        return load_checkpoint(path, map_location or "cpu")


def find_checkpoint(directory: Path) -> tuple[Path | None, dict[str, str]]:
    """The checkpoint that a run goes on from, and what is wrong with those that are damaged.

    That is ``last.ckpt``; where it is damaged or missing, the whole one that is furthest, whatever its name, with a
    warning.
    """
    damaged: dict[str, str] = {}
    whole: list[tuple[int, Path]] = []
    others = sorted(path.name for path in directory.glob("*.ckpt") if path.name not in _NAMES)
    for name in (*_NAMES, *others):
        path = directory / name
        if not path.exists():
            continue
        try:
            checkpoint = load_checkpoint(path)
        except SettingError as error:
            damaged[name] = str(error.found)
            continue
        if name == LAST:
            return path, damaged
        # Weights alone, which a callback of the user's may save, are not gone on from.
        if name in _NAMES or "loops" in checkpoint:
            whole.append((checkpoint["global_step"], path))
    found = max(whole, key=lambda entry: entry[0])[1] if whole else None
    for reason in damaged.values():
        rank_zero_warn(f"{reason}: falling back to an older checkpoint.")
    if found is not None:
        rank_zero_warn(f"Going on from {found}.")
    return found, damaged


def newest_checkpoint(directory: Path) -> Path | None:
    """The first of what :func:`find_checkpoint` returns."""
    return find_checkpoint(directory)[0]


def set_aside(directory: Path, damaged: Iterable[str]) -> None:
    """Renames damaged checkpoints, so that the next one that is written does not push them over a whole one."""
    for name in damaged:
        (directory / name).replace(directory / f"{name}.damaged")
