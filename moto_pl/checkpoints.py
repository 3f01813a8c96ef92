"""Files of checkpoints: written whole, read without running anything that they contain."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from moto_pl.errors import SettingError
from moto_pl.files import make_directory, sync

LAST, PREVIOUS, PRETRAINED, BEST = "last.ckpt", "previous.ckpt", "pretrained.ckpt", "best.ckpt"


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
        make_directory(path.parent)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
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
        sync(path.parent)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with ``weights_only=True``, whatever is asked for."""
        return load_checkpoint(path, map_location or "cpu")


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint of a run: ``last.ckpt``, else (with a warning) the one before it, else None."""
    for name in (LAST, PREVIOUS):
        path = directory / name
        if path.exists():
            try:
                load_checkpoint(path)
            except SettingError as error:
                rank_zero_warn(f"{error} Falling back to an older checkpoint.")
                continue
            if name == PREVIOUS:
                rank_zero_warn(f"Resuming from {path}.")
            return path
    return None
