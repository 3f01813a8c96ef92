"""The compiled module ``moto_pl._C``: loaded when first asked for, and reported on in one line when it cannot be.

Nothing here fails without the module: every operator has a plain-PyTorch reference that serves instead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ..errors import SettingError
from . import autograd

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
    autograd.register("moto")
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


@torch.compiler.assume_constant_result
def _devices() -> str:
    """Types of the devices with operators; a constant to torch.compile, which cannot trace the loading."""
    info = _load().info
    return "" if info is None else "cpu cuda" if info["cuda"] else "cpu"


@cache
def _report_once() -> None:
    _logger.warning("%s. The plain-PyTorch references are used meanwhile.", status())


_without = False


@contextmanager
def without_operators() -> Iterator[None]:
    """Within it the references serve, whatever is asked for: what is exported runs where our operators are not."""
    global _without
    before, _without = _without, True
    try:
        yield
    finally:
        _without = before


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
    if ops == "reference" or _without:
        return False
    if ops not in ("auto", "compiled"):
        raise SettingError("ops", repr(ops), "Use auto, compiled or reference.")
    devices = _devices().split()
    if not devices:
        if ops == "compiled":
            raise SettingError("ops", "'compiled'", f"Set ops to auto or reference: {status()}.")
        _report_once()
        return False
    supported = device.type in devices
    if ops == "compiled" and not supported:
        raise SettingError(
            "ops", f"'compiled' with tensors on {device.type}", f"Set ops to auto or reference: {status()}."
        )
    return supported


def compiled_products(name: str, ops: Ops, state: torch.Tensor, uncompiled: str | None = None) -> bool | None:
    """Whether an operator's products are to be in bfloat16; None where its reference serves.

    The operators take float32 and float64, and do under bfloat16 autocast what it does to the reference.

    Args:
        name: the operator's.
        ops: as in :func:`use_compiled`.
        state: an input whose dtype and device are the operator's.
        uncompiled: a setting that the operator does not know.

    Returns:
        True for bfloat16 products, False for products in the state's dtype, None for the reference.

    Raises:
        SettingError: naming ``ops``, where it is ``compiled`` and the operator does not do this.
    """
    if not use_compiled(ops, state.device):
        return None
    if uncompiled is not None:
        found = f"world_model.{uncompiled}"
    elif state.dtype not in (torch.float32, torch.float64):
        found = f"{state.dtype} states"
    elif not torch.is_autocast_enabled(state.device.type) or state.dtype == torch.float64:
        return False
    elif (dtype := torch.get_autocast_dtype(state.device.type)) == torch.bfloat16:
        return True
    else:
        found = f"autocast to {dtype}"
    if ops == "compiled":
        raise SettingError("ops", f"'compiled' with {found} in {name}", "Set ops to auto or reference.")
    return None


def check_tensors(
    like_name: str, like: torch.Tensor, expected: list[tuple[str, torch.Tensor, tuple[int, ...]]]
) -> None:
    """Raises a :class:`SettingError` naming the first tensor without the shape given or ``like``'s dtype and device."""
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise SettingError(name, f"shape {tuple(tensor.shape)}", f"Give it as {shape}.")
        if tensor.dtype != like.dtype:
            raise SettingError(name, tensor.dtype, f"Use {like_name}'s dtype, {like.dtype}.")
        if tensor.device != like.device:
            raise SettingError(name, f"device {tensor.device}", f"Put it on {like_name}'s device, {like.device}.")


def signed(word: int) -> int:
    """A 64-bit word as the signed integer with the same bits, which is what an operator takes."""
    return ((word + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)
