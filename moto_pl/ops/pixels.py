"""Pixels: as numbers, moved, and the squared error of images. Compiled operators and plain-PyTorch references."""

from __future__ import annotations

import torch
from torch import Tensor

from .extension import Ops, use_compiled


def to_float(image: Tensor, offset: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [..., channels, rows, columns] -> float32 in [-0.5, 0.5], or above another ``offset``."""
    return image.to(dtype) / 255 - offset


def squared_error_ref(values: Tensor, image: Tensor) -> Tensor:
    """The definition of :func:`squared_error`, one PyTorch operation at a time. Same arguments and result."""
    return 0.5 * (values - to_float(image, dtype=values.dtype)).square().sum((-3, -2, -1))


def squared_error(values: Tensor, image: Tensor, ops: Ops = "auto") -> Tensor:
    """Half the sum of squares of ``values - to_float(image)``, by frame; differentiable once, in ``values``.

    Args:
        values: [..., channels, rows, columns] float32 or float64.
        image: uint8 [..., channels, rows, columns], anywhere in memory: the operator makes no float copy of it.
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


def shift_ref(image: Tensor, offset: Tensor) -> Tensor:
    """The definition of :func:`shift`, one PyTorch operation at a time. Same arguments and result."""
    height, width = image.shape[-2:]
    rows = (torch.arange(height, device=image.device) + offset[:, :1]).clamp(0, height - 1)  # [frames, rows]
    columns = (torch.arange(width, device=image.device) + offset[:, 1:]).clamp(0, width - 1)  # [frames, columns]
    batch = torch.arange(image.shape[0], device=image.device)[:, None, None]
    # [frames, rows, columns, channels]
    picked = image.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def shift(image: Tensor, offset: Tensor, ops: Ops = "auto") -> Tensor:
    """Moves each image by whole pixels; where a pixel would come from beyond the edge, the edge's own is repeated.

    Args:
        image: [frames, channels, rows, columns]; the compiled operator takes uint8.
        offset: int64 [frames, 2], rows and columns: pixel (y, x) of the result is (y, x) + offset of the image.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device.

    Returns:
        [frames, channels, rows, columns], of the same type.

    Raises:
        SettingError: naming ``ops``, where it is ``compiled`` and no operators were built.
    """
    if not use_compiled(ops, image.device) or image.device.type != "cpu" or image.dtype != torch.uint8:
        return shift_ref(image, offset)
    shifted: Tensor = torch.ops.moto.shift(image, offset)
    return shifted
