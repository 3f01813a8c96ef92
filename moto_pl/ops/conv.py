"""Convolutions of stride 2 with bias and activation, and their transposes. Compiled operators and references.

They take most of a training step on a CPU. The compiled form converts pixels, adds biases, activates and multiplies by
the activation's slope where a product's operands and results are in the cache anyway. A GPU, and bfloat16 autocast,
use PyTorch's own convolutions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from .extension import Ops, use_compiled
from .pixels import to_float

Activation = Literal["none", "elu", "relu"]


def conv_ref(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation, offset: float = 0.5) -> Tensor:
    """The definition of :func:`conv`, one PyTorch operation at a time. Same arguments and result."""
    if x.dtype == torch.uint8:
        x = to_float(x, offset, weight.dtype)
    return _activate(F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias, stride=2), activation)


def conv_transpose_ref(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation) -> Tensor:
    """The definition of :func:`conv_transpose`, one PyTorch operation at a time. Same arguments and result."""
    x = x.contiguous(memory_format=torch.channels_last)
    return _activate(F.conv_transpose2d(x, weight, bias, stride=2), activation)


def _activate(x: Tensor, activation: Activation) -> Tensor:
    # In place: a convolution's backward does not need its result, and the activations' need no more than theirs.
    if activation == "elu":
        return F.elu(x, inplace=True)
    return F.relu(x, inplace=True) if activation == "relu" else x


def conv(
    x: Tensor, weight: Tensor, bias: Tensor, activation: Activation, offset: float = 0.5, ops: Ops = "auto"
) -> Tensor:
    """A convolution with stride 2 and no padding, and an activation; differentiable once.

    Args:
        x: [frames, channels, rows, columns], of weight's dtype, or uint8 pixels, which count as ``x / 255 - offset``.
        weight: [outputs, channels, kernel, kernel].
        bias: [outputs].
        activation: ``none``, ``elu`` or ``relu``.
        offset: subtracted from scaled pixels.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device.

    Returns:
        [frames, outputs, (rows - kernel) // 2 + 1, (columns - kernel) // 2 + 1], with the channels last in memory.

    Raises:
        SettingError: naming ``ops``, where it is ``compiled`` and no operators were built.
    """
    if not _serves(ops, weight, activation):
        return conv_ref(x, weight, bias, activation, offset)
    result: Tensor = torch.ops.moto.conv(x, weight, bias, offset, get_args(Activation).index(activation))
    return result


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor, activation: Activation, ops: Ops = "auto") -> Tensor:
    """A transposed convolution with stride 2 and no padding, and an activation; differentiable once.

    Args:
        x: [frames, channels, rows, columns], of weight's dtype.
        weight: [channels, outputs, kernel, kernel].
        bias: [outputs].
        activation: ``none``, ``elu`` or ``relu``.
        ops: as in :func:`conv`.

    Returns:
        [frames, outputs, 2 * (rows - 1) + kernel, 2 * (columns - 1) + kernel], with the channels last in memory.

    Raises:
        SettingError: naming ``ops``, where it is ``compiled`` and no operators were built.
    """
    if not _serves(ops, weight, activation):
        return conv_transpose_ref(x, weight, bias, activation)
    result: Tensor = torch.ops.moto.conv_transpose(x, weight, bias, get_args(Activation).index(activation))
    return result


def _serves(ops: Ops, weight: Tensor, activation: Activation) -> bool:
    if activation not in get_args(Activation):
        raise SettingError("activation", activation, "Use none, elu or relu.")
    # A GPU's convolutions are cuDNN's, those in bfloat16 oneDNN's.
    compiled = use_compiled(ops, weight.device) and weight.device.type == "cpu"
    return compiled and weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
