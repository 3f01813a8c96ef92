"""``moto fit --init``: a new run that begins with another's weights."""

from __future__ import annotations

from pathlib import Path

from moto_pl.agents.initial import InitialWeights
from moto_pl.checkpoints import load_checkpoint
from moto_pl.errors import SettingError


def resolve(source: str) -> Path:
    """The file that ``--init`` names: a path so far; the one place where another kind of source would be fetched.

    Raises:
        SettingError: it is another kind of source, or a directory.
    """
    scheme, given, _ = source.partition("://")
    if given:
        raise SettingError("--init", source, f"Give the path of a checkpoint: {scheme}:// is not known here.")
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
    return InitialWeights(str(path), {**checkpoint["state_dict"], **checkpoint.get("average", {})})
