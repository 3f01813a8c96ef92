"""Pixels as numbers, and the squared error of images. Compiled operator and plain-PyTorch reference."""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import Ops, use_compiled


def to_float(image: Tensor, offset: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [..., 3, 64, 64] -> float32 in [-0.5, 0.5], or above another ``offset``."""
    return image.to(dtype) / 255 - offset


def squared_error_ref(values: Tensor, image: Tensor) -> Tensor:
    """The definition of :func:`squared_error`, one PyTorch operation at a time. Same arguments and result."""
    return 0.5 * (values - to_float(image, dtype=values.dtype)).square().sum((-3, -2, -1))


def squared_error(values: Tensor, image: Tensor, ops: Ops = "auto") -> Tensor:
    """Half the sum of squares of ``values - to_float(image)``, by frame; differentiable once, in ``values``.

    Args:
        values: [..., C, H, W] float32 or float64.
        image: uint8 [..., C, H, W], anywhere in memory: the compiled operator makes no float copy of it.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device.

    Returns:
        [...].

    Raises:
        SettingError: naming ``ops``, where it is ``compiled`` and no operators were built.
    """
    if not use_compiled(ops, values.device) or values.device.type != "cpu":
        return squared_error_ref(values, image)
    frames = values.flatten(end_dim=-4) if values.dim() > 3 else values.unsqueeze(0)
    found: Tensor = torch.ops.moto.squared_error(frames, image.reshape(frames.shape))
    return found.reshape(values.shape[:-3])
