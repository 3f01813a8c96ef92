import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.errors import SettingError
from moto_pl.nn.image import Decoder, Encoder, PixelEncoder, to_float, to_uint8


def image(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert to_float(pixels)[[0, 255]].tolist() == [-0.5, 0.5]
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("mlp_layers", "features"), [(0, 5 * 2 * 2), (2, 9)])
def test_encoder_against_plain_convolutions(mlp_layers: int, features: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder((2, 3, 4, 5), (4, 4, 4, 4), mlp_layers, 9)
    frames = image(3, 2)
    found = encoder(frames)
    assert found.shape == (3, 2, features) and encoder.out_features == features
    for b in range(3):
        for t in range(2):
            x = (frames[b, t].float() / 255 - 0.5).unsqueeze(0)
            for conv in encoder.convs:
                x = F.elu(F.conv2d(x, conv.weight.contiguous(), conv.bias, stride=2))
            x = x.contiguous().reshape(-1)
            for layer in encoder.mlp.linears:
                x = F.elu(layer.weight @ x + layer.bias)
            torch.testing.assert_close(found[b, t], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 1, 64, 65, 200])
def test_encoding_without_a_gradient_is_the_same(frames: int) -> None:
    # It goes through a few frames at a time.
    torch.manual_seed(0)
    encoder = Encoder((2, 3, 4, 5), (4, 4, 4, 4), 1, 9)
    with torch.no_grad():
        found = encoder(image(frames))
    assert torch.equal(found, encoder(image(frames)).detach()) and found.shape == (frames, 9)


@pytest.mark.parametrize("mlp_layers", [0, 2])
def test_decoder_is_a_stack_of_transposed_convolutions(mlp_layers: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(7, (6, 5, 4), (5, 5, 6, 6), 10, mlp_layers, 8)
    for p in decoder.parameters():
        p.data += 0.02 * torch.randn_like(p)  # biases begin at zero
    # A transposed convolution has one bias a channel, the linear layer that stands for it one a pixel: make them agree.
    decoder.first.bias.data = torch.randn(6).repeat_interleave(25)
    first = nn.ConvTranspose2d(10, 6, 5, stride=2)
    first.weight.data = decoder.first.weight.detach().T.reshape(10, 6, 5, 5).clone()
    first.bias.data = decoder.first.bias.detach()[::25].clone()
    features = torch.randn(2, 3, 7)
    x = features.reshape(6, 7)
    for layer in decoder.mlp.linears:
        x = F.elu(layer(x))
    x = first((x @ decoder.base.weight.T + decoder.base.bias).reshape(6, 10, 1, 1))
    for conv in decoder.convs:
        x = F.conv_transpose2d(F.elu(x), conv.weight.contiguous(), conv.bias, stride=2)
    found = decoder(features)
    assert found.shape == (2, 3, 3, 64, 64)
    torch.testing.assert_close(found, x.reshape(2, 3, 3, 64, 64), rtol=1e-4, atol=1e-5)


def test_default_shapes() -> None:
    torch.manual_seed(0)
    assert Encoder((4, 8, 16, 32), (4, 4, 4, 4), 0, 1)(image(2)).shape == (2, 128)
    assert Decoder(7, (16, 8, 4), (5, 5, 6, 6), 128, 0, 1)(torch.randn(5, 7)).shape == (5, 3, 64, 64)


def test_pixel_encoder_against_plain_convolutions() -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(9, (4, 8, 5))
    frames = image(2, 3).flatten(1, 2)
    x = frames.float() / 255
    for layer in encoder.convs:
        x = F.relu(F.conv2d(x, layer.weight.contiguous(), layer.bias, stride=2))
    torch.testing.assert_close(encoder(frames), x.reshape(2, -1), rtol=1e-4, atol=1e-5)


def test_operators_and_references_agree() -> None:
    """Values and every parameter's gradient, of encoder and decoder as configured by default but for their widths."""
    grads = []
    for ops in ("auto", "reference"):
        torch.manual_seed(0)
        net = nn.Sequential(
            Encoder((4, 8, 16, 32), (4, 4, 4, 4), 1, 20, ops=ops),  # type: ignore[arg-type]
            Decoder(20, (16, 8, 4), (5, 5, 6, 6), 128, 1, 20, ops=ops),  # type: ignore[arg-type]
        )
        out = net(image(2, 3))
        grads.append([out.detach(), *torch.autograd.grad(out.square().mean(), list(net.parameters()))])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_checkpoints_of_before_load() -> None:
    """Names and shapes of the weights are those of plain layers, whatever computes them."""
    encoder, decoder = Encoder((4, 8), (4, 4), 0, 1), Decoder(7, (6, 5, 4), (5, 5, 6, 6), 10, 0, 1)
    assert {name: tuple(p.shape) for name, p in encoder.state_dict().items()} == {
        "convs.0.weight": (4, 3, 4, 4),
        "convs.0.bias": (4,),
        "convs.1.weight": (8, 4, 4, 4),
        "convs.1.bias": (8,),
    }
    shapes = {name: tuple(p.shape) for name, p in decoder.state_dict().items() if name.startswith("convs")}
    assert shapes == {
        f"convs.{i}.{name}": shape
        for i, (a, b, k) in enumerate([(6, 5, 5), (5, 4, 6), (4, 3, 6)])
        for name, shape in (("weight", (a, b, k, k)), ("bias", (b,)))
    }


@pytest.mark.parametrize(
    ("channels", "kernels"), [((4, 8), (4, 4, 4)), ((4, 8, 16, 32, 64), (4, 4, 4, 4, 4)), ((4,), (65,))]
)
def test_encoder_refuses(channels: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="encoder_kernels"):
        Encoder(channels, kernels, 0, 1)


@pytest.mark.parametrize(
    ("channels", "kernels"), [((6, 5, 4), (5, 5, 6, 5)), ((6, 5), (5, 5, 6, 6)), ((6, 5, 4), (5, 5, 6)), ((), ())]
)
def test_decoder_refuses(channels: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="decoder_kernels"):
        Decoder(7, channels, kernels, 10, 0, 1)


@pytest.mark.parametrize("size", [64, 96, 128])
@pytest.mark.parametrize("cameras", [1, 2])
def test_larger_images_and_several_cameras(size: int, cameras: int) -> None:
    """Compiled operators serve them as the references do, and the decoder's images are the encoder's."""
    frames = torch.randint(0, 256, (2, 3, 3 * cameras, size, size), generator=torch.Generator().manual_seed(0))
    grads = []
    for ops in ("auto", "reference"):
        torch.manual_seed(0)
        net = nn.Sequential(
            Encoder((4, 8, 16, 32), (4, 4, 4, 4), 1, 20, ops=ops, inputs=3 * cameras, image_size=size),  # type: ignore[arg-type]
            Decoder(20, (16, 8, 4), (5, 5, 6, 6), 128, 1, 20, ops=ops, outputs=3 * cameras, image_size=size),  # type: ignore[arg-type]
        )
        out = net(frames.byte())
        assert out.shape == frames.shape
        grads.append([out.detach(), *torch.autograd.grad(out.square().mean(), list(net.parameters()))])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    pixels = PixelEncoder(9 * cameras, (4, 8, 5), image_size=size)
    assert pixels(frames.byte().repeat(1, 3, 1, 1, 1)[:, :3].flatten(1, 2)).shape == (2, pixels.out_features)


def test_each_camera_reaches_the_embedding() -> None:
    torch.manual_seed(0)
    encoder = Encoder((4, 8), (4, 4), 0, 1, inputs=6)
    one = torch.randint(0, 256, (1, 6, 64, 64)).byte()
    for place in (0, 3):
        other = one.clone()
        other[:, place] = 255 - other[:, place]
        assert not torch.equal(encoder(one), encoder(other))
