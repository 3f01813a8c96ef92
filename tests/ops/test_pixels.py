import pytest
import torch
from torch import Tensor

from moto_pl.ops import extension
from moto_pl.ops.pixels import shift, shift_ref, squared_error, squared_error_ref, to_float

compiled = pytest.mark.skipif(not extension.available(), reason=extension.status())
OPS = ["reference", pytest.param("compiled", marks=compiled)]


def frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) - 0.5
    return x if x.dim() < 4 else x.flatten(end_dim=-4).contiguous(memory_format=torch.channels_last).view(shape)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 64, 64), (4, 3, 64, 64), (2, 3, 3, 8, 10), (5, 2, 7, 9), (0, 3, 8, 8)])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_squared_error(ops: str, dtype: torch.dtype, shape: tuple[int, ...], layout: str) -> None:
    image, guess = frames(*shape), values(*shape, dtype=dtype).requires_grad_()
    if layout == "last":
        image = image.movedim(-3, -1).contiguous().movedim(-1, -3)
    found = squared_error(guess, image, ops)  # type: ignore[arg-type]
    expected = 0.5 * (guess.detach().double() - (image.double() / 255 - 0.5)).square().sum((-3, -2, -1))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    weight = torch.arange(1, found.numel() + 1, dtype=dtype).view(found.shape)
    (grad,) = torch.autograd.grad(found, guess, weight)
    difference = (guess.detach() - to_float(image, dtype=dtype)) * weight[..., None, None, None]
    torch.testing.assert_close(grad, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ops", OPS)
def test_time_first_views(ops: str) -> None:
    """As the world model calls it: the frames of [B, T] seen as [T, B]."""
    image, guess = frames(2, 3, 3, 8, 8).transpose(0, 1), values(3, 2, 3, 8, 8)
    torch.testing.assert_close(squared_error(guess, image, ops), squared_error_ref(guess, image.clone()))  # type: ignore[arg-type]


@pytest.mark.parametrize("ops", OPS)
def test_squared_error_gradcheck(ops: str) -> None:
    image = frames(2, 3, 4, 5)
    guess = values(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: squared_error(x, image, ops), guess)  # type: ignore[arg-type]


@compiled
def test_opcheck() -> None:
    image, guess = frames(2, 3, 4, 5), values(2, 3, 4, 5)
    torch.library.opcheck(torch.ops.moto.squared_error.default, (guess.clone().requires_grad_(), image))
    torch.library.opcheck(torch.ops.moto.squared_error_backward.default, (torch.ones(2), guess, image))
    torch.library.opcheck(torch.ops.moto.shift.default, (image, torch.tensor([[1, -1], [0, 2]])))


@compiled
@pytest.mark.parametrize("bad", [lambda x: x.float(), lambda x: x[:1], lambda x: x[..., :3]])
def test_refused(bad) -> None:
    with pytest.raises(RuntimeError, match="moto::squared_error: image must"):
        torch.ops.moto.squared_error(values(2, 3, 4, 5), bad(frames(2, 3, 4, 5)))


@compiled
def test_bits_do_not_depend_on_threads() -> None:
    image, guess = frames(33, 3, 64, 64), values(33, 3, 64, 64).requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found = squared_error(guess, image, "compiled")
            results.append((found.detach(), *torch.autograd.grad(found.sum(), guess)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("channels", [3, 9])
def test_shift_pixel_by_pixel(ops: str, channels: int) -> None:
    offset = torch.tensor([[y, x] for y in (-9, -2, 0, 1, 9) for x in (-12, -1, 0, 3, 12)])
    image = frames(len(offset), channels, 6, 8)
    moved = shift(image, offset, ops)  # type: ignore[arg-type]
    assert moved.dtype == torch.uint8 and moved.shape == image.shape
    for b, (down, right) in enumerate(offset.tolist()):
        for y in range(6):
            for x in range(8):
                source = image[b, :, min(max(y + down, 0), 5), min(max(x + right, 0), 7)]
                assert torch.equal(moved[b, :, y, x], source)


@compiled
def test_shift_of_any_layout() -> None:
    image = frames(4, 3, 9, 64, 64)[:, 1:].flatten(1, 2).contiguous(memory_format=torch.channels_last)
    offset = torch.tensor([[0, 0], [-4, 4], [2, -3], [4, 4]])
    for layout in (image, image.contiguous(), image[..., ::2]):
        assert torch.equal(shift(layout, offset, "compiled"), shift_ref(layout, offset))
