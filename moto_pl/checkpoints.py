"""Files of checkpoints: written whole, read without running anything that they contain."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from moto_pl.errors import SettingError
from moto_pl.files import make_directory, whole
from moto_pl.pickled import Claim, read_claims
from moto_pl.reading import check

LAST, PREVIOUS, PRETRAINED, BEST = "last.ckpt", "previous.ckpt", "pretrained.ckpt", "best.ckpt"
_NAMES = (LAST, PREVIOUS, BEST, PRETRAINED)
_PROGRESS = {"total": dict[str, int], "current": dict[str, int]}
#: What a checkpoint holds where it holds it: weights alone are one too, and other callbacks add what they like.
_CHECKPOINT: dict[str, Any] = {
    "state_dict": dict[str, Claim],
    "average?": dict[str, Claim],
    "global_step?": int,
    "epoch?": int,
    "pytorch-lightning_version?": str,
    "agent?": {
        "class_path": str,
        "init_args": dict[str, Any],
        "action_size?": int | None,
        "action_scale?": Any,
        "observation?": {"cameras": list[str], "state": dict[str, int], "mean": list[float], "std": list[float]},
    },
    "loops?": {
        "fit_loop": {
            "state_dict": dict,
            "epoch_progress": _PROGRESS,
            "epoch_loop.state_dict": dict,
            "epoch_loop.batch_progress": {**_PROGRESS, "is_last_batch": bool},
            "epoch_loop.scheduler_progress": _PROGRESS,
            "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": _PROGRESS, "zero_grad": dict}},
        }
    },
    "callbacks?": dict[str, Any],
    "optimizer_states?": [{"state": dict[int, dict], "param_groups": list[dict]}],
    "lr_schedulers?": list[dict],
    "rng?": [
        {
            "python": (int, list[int], float | None),
            "numpy": (str, Claim, int, int, float),
            "torch": Claim,
            "cuda": list[Claim],
        }
    ],
    "OfflineToOnlineDataModule?": {
        "manifest": [{"file": str, "length": int, "crc32": int}],
        "collected_episodes?": int,
        "env_steps?": int,
        "world_size?": int,
        "collected_rounds?": int,
    },
}


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without running anything that it contains.

    Raises:
        SettingError: where the file is missing, truncated, or holds anything but tensors and plain types.
    """
    try:
        claims = read_claims(Path(path))
        if not isinstance(claims, dict) or "state_dict" not in claims:
            raise SettingError("ckpt_path", f"{path}, which is no checkpoint", "Give a checkpoint that moto fit wrote.")
        check(claims, _CHECKPOINT)
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except SettingError:
        raise
    except FileNotFoundError:
        raise SettingError("ckpt_path", f"no file {path}", "Give the path of a checkpoint.") from None
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(
            "ckpt_path", f"{path}, which cannot be read ({reason})", "Give a whole checkpoint."
        ) from None
    return checkpoint


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole under another name, flushes it to the disk, then renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves; the file under ``path`` is the old one or the new one, at any moment."""
        path = Path(path)
        make_directory(path.parent)
        # The one before stays: a disk may lose what it has flushed.
        previous = path.with_name(PREVIOUS) if path.name == LAST else None
        try:
            with whole(path, previous) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # Of a write that was refused torch's writer says "unexpected pos", while it handles the disk's own error.
            refused = error if isinstance(error, OSError) else error.__context__
            reason = refused.strerror if isinstance(refused, OSError) else str(error).splitlines()[0]
            raise SettingError(
                "trainer.default_root_dir",
                f"{path} could not be written ({reason})",
                "Free disk space and run the same command again: the last checkpoint is whole.",
            ) from error

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
            whole.append((checkpoint.get("global_step", 0), path))
    found = max(whole, key=lambda entry: entry[0])[1] if whole else None
    for reason in damaged.values():
        rank_zero_warn(f"{reason}: falling back to an older checkpoint.")
    if found is not None:
        rank_zero_warn(f"Going on from {found}.")
    return found, damaged


def set_aside(directory: Path, damaged: Iterable[str]) -> None:
    """Renames damaged checkpoints, so that the next one that is written does not push them over a whole one."""
    for name in damaged:
        (directory / name).replace(directory / f"{name}.damaged")
