"""The weights that act, without what training alone needs: optimizer, random states, the weights behind an average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moto_pl.checkpoints import load_checkpoint


def acting(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's weights that act (averaged ones, if it has them), its agent's description and its step.

    Raises:
        SettingError: it is no whole checkpoint.
    """
    content = load_checkpoint(checkpoint)
    weights = {**content["state_dict"], **content.get("average", {})}
    return {
        "agent": content.get("agent"),
        "state_dict": {name: tensor.detach().clone() for name, tensor in weights.items()},
        "average": {},
        "global_step": int(content.get("global_step", 0)),
    }


def halved(content: dict[str, Any]) -> dict[str, Any]:
    """The same in half precision; a tensor that does not fit its range stays as it is."""
    return {**content, "state_dict": {name: _half(tensor) for name, tensor in content["state_dict"].items()}}


def _half(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    lost = ~half.isfinite() | ((half == 0) & (tensor.abs() > torch.finfo(torch.float16).tiny))
    return tensor if bool(lost.any()) else half
