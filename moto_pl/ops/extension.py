"""The compiled module ``moto_pl._C``: loaded when first asked for, and reported on in one line when it cannot be.

Nothing here fails without the module: every operator has a plain-PyTorch reference that serves instead.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ..errors import SettingError

Ops = Literal["auto", "compiled", "reference"]

_RECORD = Path(__file__).parent.parent / "_build.json"
_REBUILD = "run `pip install --no-build-isolation --no-deps -e .` in moto_pl's source tree"
_logger = logging.getLogger("moto_pl")


class _State(NamedTuple):
    info: dict[str, Any] | None  # what the module says of its build; None without a usable module
    status: str


def _release(version: str) -> str:
    # The local part ("+cpu", "+cu130") says how torch was packaged, not which headers it has.
    return version.split("+")[0]


@cache
def _load() -> _State:
    try:
        record = json.loads(_RECORD.read_text())
    except (OSError, ValueError):
        record = {"built": False, "reason": "this copy of moto_pl was never installed"}
    if not record["built"]:
        return _State(None, f"compiled operators: not built ({record['reason']}); to build them, {_REBUILD}")
    # Compared before the module is loaded: against another torch it may crash rather than fail to load.
    if _release(record["torch"]) != _release(torch.__version__):
        return _State(
            None,
            f"compiled operators: off, built against torch {record['torch']} but torch {torch.__version__} is running;"
            f" to rebuild them, {_REBUILD}",
        )
    try:
        info = import_module("moto_pl._C").build_info()
    except ImportError as error:
        return _State(None, f"compiled operators: off, loading failed ({error}); to rebuild them, {_REBUILD}")
    devices = f"CPU and CUDA {info['cuda']}" if info["cuda"] else "CPU"
    return _State(info, f"compiled operators: on, for {devices} ({info['compiler']}, torch {info['torch']})")


def available() -> bool:
    """Whether the compiled operators are there and were built against the torch that is running."""
    return _load().info is not None


def status() -> str:
    """One line: what the compiled operators were built with, or why there are none and what to do about it."""
    return _load().status


def build_info() -> dict[str, Any]:
    """How the module was built: ``compiler``, ``torch``, ``cuda``, ``cuda_architectures``; empty without a module."""
    return dict(_load().info or {})


@cache
def _report_once() -> None:
    _logger.warning("%s. The plain-PyTorch references are used meanwhile.", status())


def use_compiled(ops: Ops, device: torch.device) -> bool:
    """Decides between an operator and its reference.

    Args:
        ops: ``compiled``, ``reference``, or ``auto``: compiled where it was built for ``device``.
        device: where the inputs are.

    Returns:
        True for the compiled operator.

    Raises:
        SettingError: naming ``ops``, where it is none of the three, or ``compiled`` is not possible here.
    """
    if ops == "reference":
        return False
    if ops not in ("auto", "compiled"):
        raise SettingError("ops", repr(ops), "Use auto, compiled or reference.")
    info = _load().info
    if info is None:
        if ops == "compiled":
            raise SettingError("ops", "'compiled'", f"Set ops to auto or reference: {status()}.")
        _report_once()
        return False
    supported = device.type == "cpu" or (device.type == "cuda" and info["cuda"] is not None)
    if ops == "compiled" and not supported:
        raise SettingError(
            "ops", f"'compiled' with tensors on {device.type}", f"Set ops to auto or reference: {status()}."
        )
    return supported
