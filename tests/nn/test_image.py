import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.errors import SettingError
from moto_pl.nn.image import Decoder, Encoder, to_float, to_uint8


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
