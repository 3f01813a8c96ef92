"""Datasets by their id on the hub, where the package that fetches them is installed and there is a network."""

from __future__ import annotations

import re
from pathlib import Path

from moto_pl.datasets.minari_io import exists, locate
from moto_pl.errors import SettingError

HUB_ID = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


def local(source: str) -> Path:
    """The files of a source: a path that is there, a local Minari dataset's, or those fetched from the hub.

    Raises:
        SettingError: it is an id, and cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if exists(source):
        return locate(source)
    match = HUB_ID.fullmatch(source)
    return path if match is None or Path(source).suffix in (".hdf5", ".h5", ".npz") else _fetched(match[1])


def _fetched(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        fix = "Give a folder, or let it be fetched: pip install huggingface_hub."
        raise SettingError("source", f"{name}, which is not here and may be on the hub", fix) from error
    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:  # of its own, of whatever it talks through, of the disk
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SettingError(
            "source", f"{name}, which could not be fetched ({reason})", "Give a local folder."
        ) from error
