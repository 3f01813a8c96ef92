"""``moto fit --init``: a new run that begins with another's weights."""

from __future__ import annotations

from pathlib import Path

import torch

from moto_pl.agents.initial import InitialWeights
from moto_pl.checkpoints import load_checkpoint
from moto_pl.errors import SettingError
from moto_pl.hub import SCHEME, fetch


def resolve(source: str) -> Path:
    """The file that ``--init`` names: a path, or the weights of ``hf://org/name``, which are fetched.

    Raises:
        SettingError: it is another kind of source, a directory, or cannot be fetched.
    """
    if source.startswith(SCHEME):
        return fetch(source, "--init")
    _, given, _ = source.partition("://")
    if given:
        raise SettingError("--init", source, f"Give the path of a checkpoint, or {SCHEME}org/name.")
    path = Path(source)
    if path.is_dir():
        fix = "Name a file in it, such as checkpoints/best.ckpt in a run's directory."
        raise SettingError("--init", f"{path}, a directory", fix)
    return path


def read_initial(source: str) -> InitialWeights:
    """The weights that act in a checkpoint (averaged ones, if it has them), and those that do not act.

    Raises:
        SettingError: it is no whole checkpoint.
    """
    path = resolve(source)
    try:
        checkpoint = load_checkpoint(path)
    except SettingError as error:
        raise SettingError("--init", error.found, error.fix) from None
    weights = {**checkpoint["state_dict"], **checkpoint.get("average", {})}
    # Those that are shipped may be stored in half precision.
    single = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in weights.items()}
    return InitialWeights(source if source.startswith(SCHEME) else str(path), single)
