"""The hub, or a folder that stands in for it: where weights are fetched from and runs are pushed to.

What comes from it is a file like any other of a stranger's: it is read as tensors and plain values
(:mod:`moto_pl.checkpoints`), and nothing in it runs.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from moto_pl.errors import SettingError
from moto_pl.reading import is_inside

FOLDER = "MOTO_HUB"
"""The environment variable that names a folder in place of the hub, such as one that a cluster's machines share."""
WEIGHTS = "checkpoints/policy.ckpt"
"""The weights in a repository, which is laid out as a run is."""
SCHEME = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INSTALL = "Install it: pip install 'moto_pl[hub]'. Or let the variable MOTO_HUB name a folder in place of the hub."


def check_name(setting: str, name: str) -> str:
    """The name of a repository.

    Raises:
        SettingError: it is none.
    """
    if _NAME.fullmatch(name) is None or ".." in name:
        raise SettingError(setting, repr(name), "Give org/name: letters, digits, _, - and . alone.")
    return name


def fetch(source: str, setting: str) -> Path:
    """The weights of ``hf://org/name``, or ``hf://org/name@revision``: a file on this disk.

    Args:
        source: as the user wrote it.
        setting: what names it.

    Raises:
        SettingError: there is none, or it cannot be fetched.
    """
    given, _, revision = source.removeprefix(SCHEME).partition("@")
    name = check_name(setting, given)
    if folder := os.environ.get(FOLDER):
        path = Path(folder) / name / WEIGHTS
        if revision or not is_inside(path, Path(folder) / name):
            found = f"{source}, for which there is no file {path}" if not revision else source
            raise SettingError(setting, found, "Push it there, or name another; a folder has no revisions.")
        return path
    library = _library(setting, source)
    try:
        return Path(library.hf_hub_download(name, WEIGHTS, revision=revision or None))
    except Exception as error:  # of its own kinds, of whatever it talks through, of the disk
        fix = "Look at the name and the network, or give the path of a checkpoint."
        raise SettingError(setting, f"{source}, which cannot be fetched ({_line(error)})", fix) from None


def push(folder: Path, name: str, private: bool) -> str:
    """Puts a folder's files into a repository, which is made where it is missing; returns where that is.

    Raises:
        SettingError: it cannot be reached, or does not let this user in.
    """
    if hub := os.environ.get(FOLDER):
        target = Path(hub) / name
        try:
            shutil.copytree(folder, target, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise SettingError("name", f"{target}, which cannot be written ({_line(error)})", "Use another.") from None
        return str(target)
    library = _library("name", name)
    try:
        api = library.HfApi()
        api.create_repo(repo_id=name, private=private, exist_ok=True)
        message = "A policy of moto_pl"
        return str(api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message))
    except Exception as error:  # as above
        fix = "Look at the network and log in with hf auth login, or let MOTO_HUB name a folder in place of the hub."
        raise SettingError("name", f"{name}, which cannot be pushed to ({_line(error)})", fix) from None


def _library(setting: str, found: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise SettingError(setting, f"{found}, for which huggingface_hub is not installed", _INSTALL) from None
    return huggingface_hub


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
