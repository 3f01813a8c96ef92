"""Weights of another run that an agent begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from moto_pl.errors import SettingError


class InitialWeights(NamedTuple):
    """Tensors by name, and where they are from."""

    source: str
    tensors: Mapping[str, Tensor]


@torch.no_grad()
def take(network: nn.Module, weights: InitialWeights) -> list[str]:
    """Copies every tensor that has the name, the shape and the type of one of ``network``'s, and says what is left.

    Returns:
        A line for each tensor, here or there, that was not taken.

    Raises:
        SettingError: none fits, or one that does is not finite.
    """
    ours, theirs = network.state_dict(), weights.tensors
    fitting = {
        name: tensor
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape == tensor.shape and theirs[name].dtype == tensor.dtype
    }
    if not fitting:
        found = f"{weights.source}, of which no tensor fits"
        raise SettingError("--init", found, "Give a checkpoint of an agent whose networks have parts of this one's.")
    for name, tensor in fitting.items():
        if not torch.isfinite(theirs[name]).all():
            fix = "Give a checkpoint from before that happened."
            raise SettingError("--init", f"{weights.source}, whose {name} has NaN or infinity", fix)
        tensor.copy_(theirs[name])
    left = [
        f"{name} {_form(tensor)}: {'there it is ' + _form(theirs[name]) if name in theirs else 'not there'}"
        for name, tensor in ours.items()
        if name not in fitting
    ]
    left += [f"{name} {_form(tensor)}: not here" for name, tensor in theirs.items() if name not in ours]
    rank_zero_info(f"init: {len(fitting)} of {len(ours)} tensors from {weights.source}")
    for line in left:
        rank_zero_info(f"init: not taken: {line}")
    return left


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.dtype == torch.float32 else f"{str(tensor.dtype).removeprefix('torch.')} "
    return f"{kind}{list(tensor.shape)}"
