"""Image encoders and decoder for square RGB frames, of several cameras stacked by their channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.envs.observation import IMAGE_SIZE
from moto_pl.errors import SettingError
from moto_pl.ops import Ops, conv, conv_transpose
from moto_pl.ops.philox import Key, Stream, integers
from moto_pl.ops.pixels import shift
from moto_pl.ops.pixels import to_float as to_float  # the inverse of to_uint8 below

from .mlp import MLP, glorot
from .vector import VectorEncoder

ConvActivation = Literal["elu", "relu"]

_FEW_FRAMES = 64


def to_uint8(image: Tensor) -> Tensor:
    """The inverse of :func:`to_float`, clipped: float -> uint8."""
    return ((image.float() + 0.5) * 255).round().clamp(0, 255).byte()


class Encoder(nn.Module):
    """Convolutions (stride 2, VALID), then ``mlp_layers`` of ``mlp_units``.

    Args:
        channels: of each convolution.
        kernels: their sizes, as many.
        mlp_layers: hidden layers after them; 0 gives DreamerV2's encoder.
        mlp_units: their width.
        activation: after each convolution.
        ops: which operators compute the convolutions.
        inputs: channels of an image, three a camera.
        image_size: its height and width; a larger one gives larger maps, and so a longer embedding.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        mlp_layers: int,
        mlp_units: int,
        activation: ConvActivation = "elu",
        ops: Ops = "auto",
        inputs: int = 3,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        self.activation: ConvActivation = activation
        self.ops = ops
        if len(channels) != len(kernels):
            raise SettingError("world_model.encoder_kernels", kernels, f"Give one for each of {channels}.")
        size, layers = image_size, []
        for out, kernel in zip(channels, kernels, strict=True):
            layers.append(nn.Conv2d(inputs, out, kernel, stride=2))
            size, inputs = (size - kernel) // 2 + 1, out
            if size < 1:
                raise SettingError("world_model.encoder_kernels", kernels, f"Too large for {image_size} pixels.")
        self.convs = nn.ModuleList(layers)
        self.convs.apply(glorot)
        _channels_last(self.convs)
        self.mlp = MLP(inputs * size * size, None, mlp_layers, mlp_units)
        self.out_features = self.mlp.out_features

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [..., 3 * M, H, W] of M cameras -> [..., embedding]."""
        frames = image.flatten(end_dim=-4)  # [frames, 3 * M, H, W]
        if torch.is_grad_enabled() or frames.device.type != "cpu":
            maps = self._convolve(frames)
        else:  # no layer's maps are needed again: the next finds those of a few frames in the cache
            maps = torch.cat([self._convolve(few) for few in frames.split(_FEW_FRAMES)])
        return self.mlp(maps).unflatten(0, image.shape[:-3])

    def _convolve(self, x: Tensor) -> Tensor:
        """uint8 [frames, 3 * M, H, W] -> the last maps [frames, features]."""
        for weight, bias in _weights(self.convs):
            x = conv(x, weight, bias, self.activation, ops=self.ops)
        return x.flatten(1)


class Decoder(nn.Module):
    """``mlp_layers`` of ``mlp_units``, a linear layer to 1x1 maps, then transposed convolutions (stride 2, VALID).

    The mean of a unit-variance Gaussian on images in [-0.5, 0.5].

    Args:
        inputs: features of a state.
        channels: of each transposed convolution but the last, which has the image's.
        kernels: their sizes, one more than ``channels``; together they must lead from 1 to 64 pixels. To a larger image
            the same layers lead from larger maps: the first, which begins at 1x1, has a larger kernel.
        base: channels of the 1x1 maps.
        mlp_layers: hidden layers before them; 0 gives DreamerV2's decoder.
        mlp_units: their width.
        activation: between the transposed convolutions.
        ops: which operators compute the convolutions.
        outputs: channels of an image, three a camera.
        image_size: its height and width.
    """

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        kernels: tuple[int, ...],
        base: int,
        mlp_layers: int,
        mlp_units: int,
        activation: ConvActivation = "elu",
        ops: Ops = "auto",
        outputs: int = 3,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        self.activation: ConvActivation = activation
        self.ops = ops
        size = 1
        for kernel in kernels:
            size = 2 * (size - 1) + kernel
        if size != IMAGE_SIZE or len(kernels) != len(channels) + 1:
            raise SettingError(
                "world_model.decoder_kernels",
                f"{kernels}, which give {size} pixels from {len(channels)} + 1 layers",
                f"Give one more than decoder_channels, leading from 1 to {IMAGE_SIZE} pixels at stride 2: 5,5,6,6.",
            )
        # Each layer after the first doubles what the image has beyond 64 pixels.
        beyond, odd = divmod(image_size - IMAGE_SIZE, 2 ** (len(kernels) - 1))
        if odd:
            fix = f"Give fewer layers for images of {image_size} pixels."
            raise SettingError("world_model.decoder_kernels", kernels, fix)
        first = kernels[0] + beyond
        self.mlp = MLP(inputs, None, mlp_layers, mlp_units)
        self.base = nn.Linear(self.mlp.out_features, base)
        widths = (*channels, outputs)
        # A transposed convolution of 1x1 maps is a linear layer, and as one it takes a third of the time on a CPU.
        self.first = nn.Linear(base, widths[0] * first**2)
        self.first_shape = (widths[0], first, first)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel, stride=2)
            for a, b, kernel in zip(widths[:-1], widths[1:], kernels[1:], strict=True)
        )
        self.apply(glorot)
        _channels_last(self.convs)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> [..., 3 * M, H, W]."""
        x = self.first(self.base(self.mlp(features.flatten(end_dim=-2))))
        x = x.unflatten(-1, self.first_shape).contiguous(memory_format=torch.channels_last)
        x = F.elu(x) if self.activation == "elu" else F.relu(x)
        *hidden, last = _weights(self.convs)
        for weight, bias in hidden:
            x = conv_transpose(x, weight, bias, self.activation, self.ops)
        x = conv_transpose(x, *last, "none", self.ops)
        return x.unflatten(0, features.shape[:-1])


def _weights(convs: nn.ModuleList) -> list[tuple[Tensor, Tensor]]:
    """Each layer's (weight, bias), as the ops take them."""
    return [(cast(Tensor, layer.weight), cast(Tensor, layer.bias)) for layer in convs]


def _channels_last(convs: nn.ModuleList) -> None:
    """Stores the weights as the faster convolutions on CPUs and tensor cores want them."""
    for parameter in convs.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class Stacked(NamedTuple):
    """Stacked frames uint8 [B, stack * 3 * M, H, W], and the state vectors seen with them [B, stack * V]."""

    image: Tensor
    vector: Tensor


#: Stacked frames, and the vectors beside them where there are any.
Seen = Tensor | Stacked


class PixelEncoder(nn.Module):
    """Convolutions (kernel 3, stride 2, VALID, ReLU) on stacked frames, as in D4PG and JAXRL2.

    Args:
        inputs: channels of the stack, three a frame of each camera.
        channels: of each convolution.
        init: gives a layer its initial weights.
        vectors: encodes the state vectors, where there are any; its output joins the convolutions'.
        image_size: height and width of a frame.
    """

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        init: Callable[[nn.Module], None] = glorot,
        vectors: VectorEncoder | None = None,
        image_size: int = IMAGE_SIZE,
    ) -> None:
        super().__init__()
        size, layers = image_size, []
        for out in channels:
            layers.append(nn.Conv2d(inputs, out, 3, stride=2))
            size, inputs = (size - 3) // 2 + 1, out
            if size < 1:
                raise SettingError("pixels.channels", channels, f"Too many convolutions for {image_size} pixels.")
        self.convs = nn.ModuleList(layers)
        self.convs.apply(init)
        _channels_last(self.convs)
        self.vectors = vectors
        self.out_features = inputs * size * size + (0 if vectors is None else vectors.out_features)

    def forward(self, seen: Seen) -> Tensor:
        """Stacked frames, and vectors where there are any -> [B, F]."""
        x, vector = seen if isinstance(seen, Stacked) else (seen, None)
        for weight, bias in _weights(self.convs):
            x = conv(x, weight, bias, "relu", offset=0.0)
        x = x.flatten(1)
        if self.vectors is None:
            return x
        assert vector is not None
        return torch.cat((x, self.vectors(vector).to(x.dtype)), -1)


def random_shift(image: Tensor, pad: int, key: Key) -> Tensor:
    """DrQ's augmentation: each image of the batch is padded by its edge pixels and cropped back at a random place.

    Args:
        image: [B, channels, H, W]; a stack of frames, and of cameras, is shifted as one.
        pad: pixels, 0 or more: the largest shift in each direction.
        key: names the draws.

    Returns:
        [B, channels, H, W], of the same type.
    """
    if pad == 0:
        return image
    offset = integers(key, Stream.ROWS, 2 * pad + 1, (image.shape[0], 2), image.device, rows=0) - pad
    return shift(image, offset)
