import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moto_pl.errors import SettingError
from moto_pl.ops import extension
from moto_pl.ops.conv import Activation, conv, conv_ref, conv_transpose, conv_transpose_ref

compiled = pytest.mark.skipif(not extension.available(), reason=extension.status())
OPS = ["reference", pytest.param("compiled", marks=compiled)]
ACTIVATIONS: list[Activation] = ["none", "elu", "relu"]
# Largest error, as a share of the largest number: the operators sum in another order.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}
#: Channels in and out, kernel, rows: one vector of channels and many, parts of one, columns that no kernel reaches.
LAYERS = [(3, 5, 4, 6), (1, 1, 1, 3), (2, 16, 3, 8), (17, 40, 4, 7), (33, 3, 5, 9), (16, 65, 6, 7), (5, 70, 2, 5)]


def layer(
    inputs: int, outputs: int, kernel: int, rows: int, dtype: torch.dtype, transposed: bool = False, frames: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, weight and bias; the maps are those that come out for a transposed layer."""
    generator = torch.Generator().manual_seed(inputs + 100 * outputs + kernel)
    rows, columns = ((rows - kernel) // 2 + 1, (rows + 3 - kernel) // 2 + 1) if transposed else (rows, rows + 3)
    x = torch.randn(frames, inputs, rows, columns, generator=generator, dtype=torch.float64)
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = torch.randn(*shape, kernel, kernel, generator=generator, dtype=torch.float64) / (kernel * inputs**0.5)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def activated(x: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "elu":
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return np.maximum(x, 0) if activation == "relu" else x


def conv_loop(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, activation: Activation) -> np.ndarray:
    """The definition: each of the results alone, in float64."""
    kernel = weight.shape[-1]
    rows, columns = ((size - kernel) // 2 + 1 for size in x.shape[-2:])
    out = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", window, weight) + bias
    return activated(out, activation)


def transpose_loop(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, activation: Activation) -> np.ndarray:
    kernel = weight.shape[-1]
    out = np.zeros((len(x), weight.shape[1], *(2 * (size - 1) + kernel for size in x.shape[-2:])))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            part = np.einsum("nc,cohw->nohw", x[:, :, i, j], weight)
            out[:, :, 2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] += part
    return activated(out + bias[:, None, None], activation)


def assert_near(found: Tensor, expected: Any) -> None:
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    scale = expected.abs().max().clamp(min=1).item()
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=TOLERANCE[found.dtype] * scale)


def apply(transposed: bool, tensors: tuple[Tensor, ...], activation: Activation, ops: Any) -> Tensor:
    x, weight, bias = tensors
    return conv_transpose(x, weight, bias, activation, ops) if transposed else conv(*tensors, activation, ops=ops)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sizes", LAYERS)
def test_against_float64_loop(
    ops: str, dtype: torch.dtype, activation: Activation, transposed: bool, sizes: tuple[int, int, int, int]
) -> None:
    tensors = layer(*sizes, dtype, transposed)
    loop = transpose_loop if transposed else conv_loop
    expected = loop(*(t.double().numpy() for t in tensors), activation)
    found = apply(transposed, tensors, activation, ops)
    assert found.dtype == dtype
    assert_near(found, expected)


@compiled
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sizes", LAYERS)
def test_gradients_are_the_references(
    dtype: torch.dtype, activation: Activation, transposed: bool, sizes: tuple[int, int, int, int]
) -> None:
    def gradients(dtype: torch.dtype, ops: str) -> tuple[Tensor, ...]:
        leaves = tuple(t.requires_grad_() for t in layer(*sizes, dtype, transposed))
        out = apply(transposed, leaves, activation, ops)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        return torch.autograd.grad(out, leaves, weight.to(dtype))

    for found, expected in zip(gradients(dtype, "compiled"), gradients(torch.float64, "reference"), strict=True):
        assert_near(found, expected)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck(ops: str, activation: Activation, transposed: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in layer(2, 3, 3, 5, torch.float64, transposed, frames=2))
    # The reference activates in place: gradcheck's own copies of the inputs stay as they are.
    assert torch.autograd.gradcheck(lambda *tensors: apply(transposed, tensors, activation, ops), leaves)


def pixels(channels: int, layout: str) -> Tensor:
    """uint8 [7, channels, 9, 12] in one of the layouts that frames have."""
    generator = torch.Generator().manual_seed(channels)
    x = torch.randint(0, 256, (7, channels, 9, 12), dtype=torch.uint8, generator=generator)
    if layout == "last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wide = torch.zeros(7, 2 * channels, 9, 24, dtype=torch.uint8)
        wide[:, ::2, :, ::2] = x
        return wide[:, ::2, :, ::2]
    return x


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("offset", [0.5, 0.0])
@pytest.mark.parametrize("layout", ["first", "last", "strided"])
@pytest.mark.parametrize("channels", [3, 9])
def test_pixels_are_converted(ops: str, offset: float, layout: str, channels: int) -> None:
    _, weight, bias = layer(channels, 6, 4, 9, torch.float32)
    leaves = weight.requires_grad_(), bias.requires_grad_()
    x = pixels(channels, layout)
    found = conv(x, *leaves, "elu", offset, ops)  # type: ignore[arg-type]
    expected = conv(x.float() / 255 - offset, *leaves, "elu", ops=ops)  # type: ignore[arg-type]
    grads = [torch.autograd.grad(out, leaves, torch.ones_like(out)) for out in (found, expected)]
    # To the bit: pixels are rounded as the reference rounds them.
    assert torch.equal(found, expected)
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@compiled
@pytest.mark.parametrize("transposed", [False, True])
def test_bits_do_not_depend_on_threads_or_frames(transposed: bool) -> None:
    results = []
    before = torch.get_num_threads()
    tensors = tuple(t.requires_grad_() for t in layer(24, 40, 4, 20, torch.float32, transposed, frames=61))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = apply(transposed, tensors, "elu", "compiled")
            results.append([out.detach(), *torch.autograd.grad(out, tensors, out.detach())])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
    x, weight, bias = (t.detach() for t in tensors)
    pieces = [apply(transposed, (piece, weight, bias), "elu", "compiled") for piece in x.split([1, 7, 53])]
    assert torch.equal(torch.cat(pieces), results[0][0])


@compiled
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_narrower_vectors(isa: str) -> None:
    """What other processors take: the tests against the references once more."""
    names = ["test_against_float64_loop", "test_gradients_are_the_references", "test_pixels_are_converted"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [f"{__file__}::{name}" for name in names]
    done = subprocess.run(command, env={**os.environ, "MOTO_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_nan_stays_one(ops: str, activation: Activation, transposed: bool) -> None:
    x, weight, bias = layer(3, 4, 4, 8, torch.float32, transposed)
    x[1, 0, 0, 0] = torch.nan
    out = apply(transposed, (x, weight.requires_grad_(), bias), activation, ops)
    assert out[1, :, 0, 0].isnan().all() and not out[0].isnan().any()
    (grad,) = torch.autograd.grad(out.sum(), weight)
    assert grad.isnan().any()


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("transposed", [False, True])
def test_no_frames(ops: str, transposed: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in layer(3, 4, 4, 8, torch.float32, transposed, frames=0))
    out = apply(transposed, leaves, "elu", ops)
    assert out.shape[0] == 0
    out.sum().backward()
    assert leaves[1].grad is not None and not leaves[1].grad.any()


@compiled
def test_opcheck() -> None:
    x, weight, bias = (t.requires_grad_() for t in layer(3, 4, 4, 8, torch.float32))
    torch.library.opcheck(torch.ops.moto.conv.default, (x, weight, bias, 0.5, 1))
    with torch.no_grad():
        out = torch.ops.moto.conv(x, weight, bias, 0.5, 1)
        for needs_input in (False, True):
            arguments = (out, x.detach(), weight.detach(), out, 0.5, 1, needs_input)
            torch.library.opcheck(torch.ops.moto.conv_backward.default, arguments)
    x, weight, bias = (t.requires_grad_() for t in layer(3, 4, 4, 8, torch.float32, transposed=True))
    torch.library.opcheck(torch.ops.moto.conv_transpose.default, (x, weight, bias, 1))
    with torch.no_grad():
        out = torch.ops.moto.conv_transpose(x, weight, bias, 1)
        arguments = (out, x.detach(), weight.detach(), out, 1, True)
        torch.library.opcheck(torch.ops.moto.conv_transpose_backward.default, arguments)


@compiled
@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivative_is_refused(transposed: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in layer(2, 3, 4, 8, torch.float32, transposed))
    out = apply(transposed, leaves, "elu", "compiled")
    (first,) = torch.autograd.grad(out.square().sum(), leaves[1], create_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        first.sum().backward()


BAD: dict[str, Any] = {
    "x must be": lambda x, w, b: (x[0], w, b),
    "x must have 3 channels": lambda x, w, b: (x[:, :2], w, b),
    "weight must have a square kernel": lambda x, w, b: (x, w[..., :3], b),
    "bias must have shape": lambda x, w, b: (x, w, b[1:]),
    "bias must have weight's dtype": lambda x, w, b: (x, w, b.double()),
    "x must": lambda x, w, b: (x.double(), w, b),
    "weight must be float32": lambda x, w, b: (x.half(), w.half(), b.half()),
}


@compiled
@pytest.mark.parametrize("message", list(BAD))
@pytest.mark.parametrize("transposed", [False, True])
def test_operator_refuses_by_name(message: str, transposed: bool) -> None:
    x, weight, bias = BAD[message](*layer(3, 4, 4, 8, torch.float32, transposed))
    with pytest.raises(RuntimeError, match=f"moto::conv.*{message}"):
        torch.ops.moto.conv_transpose(x, weight, bias, 1) if transposed else torch.ops.moto.conv(
            x, weight, bias, 0.5, 1
        )


@pytest.mark.parametrize("ops", OPS)
def test_unknown_activation(ops: str) -> None:
    with pytest.raises(SettingError, match="^activation: found"):
        conv(*layer(3, 4, 4, 8, torch.float32), "gelu", ops=ops)  # type: ignore[arg-type]


@compiled
def test_autocast_takes_the_library() -> None:
    tensors = layer(3, 4, 4, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(*tensors, "elu").dtype == torch.bfloat16
        assert torch.equal(conv(*tensors, "elu"), conv_ref(*tensors, "elu"))
    turned = layer(3, 4, 4, 8, torch.float32, transposed=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv_transpose(*turned, "elu"), conv_transpose_ref(*turned, "elu"))
