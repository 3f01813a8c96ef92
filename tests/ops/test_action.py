import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from moto_pl.ops.action import ActionDist
from moto_pl.ops.philox import Key, Stream, uniform

KINDS = pytest.mark.parametrize("kind", ["trunc_normal", "tanh_normal"])
MIN_STD = 0.1


def raw(rows: int, actions: int = 3, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, 2 * actions, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


def truncnorm(x: torch.Tensor) -> "stats.rv_frozen":
    """As scipy has it: a normal with mean tanh(m) and standard deviation 2 sigmoid(s / 2), cut at -1 and 1."""
    m, s = np.split(x.double().numpy(), 2, -1)
    mean, std = np.tanh(m), 2 / (1 + np.exp(-s / 2)) + MIN_STD
    return stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-9)])
def test_trunc_normal_against_scipy(dtype: torch.dtype, tolerance: float) -> None:
    x = raw(200)
    dist, theirs = ActionDist(x.to(dtype)), truncnorm(x)
    noise = uniform(Key(0, 0), Stream.ACTION, (200, 3), dtype=dtype)
    action = dist.sample(noise)
    assert action.dtype == dtype and action.abs().max() <= 1
    np.testing.assert_allclose(action.numpy(), theirs.ppf(noise.double().numpy()), atol=tolerance)
    np.testing.assert_allclose(
        dist.log_prob(action).numpy(), theirs.logpdf(action.double().numpy()).sum(-1), atol=10 * tolerance
    )
    np.testing.assert_allclose(dist.entropy(noise).numpy(), theirs.entropy().sum(-1), atol=10 * tolerance)


def test_trunc_normal_at_the_edges() -> None:
    x = raw(50)
    for edge in (-1.0, 1.0):
        found = ActionDist(x).log_prob(torch.full((50, 3), edge, dtype=torch.float64))
        np.testing.assert_allclose(found.numpy(), truncnorm(x).logpdf(edge).sum(-1), atol=1e-9)


def test_trunc_normal_statistics() -> None:
    x = torch.tensor([[1.5, -0.2, -1.0, 0.3]])
    samples = ActionDist(x.expand(40_000, 4)).sample(uniform(Key(1, 0), Stream.ACTION, (40_000, 2))).double().numpy()
    theirs = truncnorm(x)
    error = theirs.std()[0] / math.sqrt(40_000)
    np.testing.assert_array_less(np.abs(samples.mean(0) - theirs.mean()[0]), 4 * error)
    np.testing.assert_allclose(samples.std(0), theirs.std()[0], rtol=0.02)
    for a in range(2):
        alone = truncnorm(x[:, [a, 2 + a]])
        assert stats.kstest(samples[:, a], lambda v, d=alone: d.cdf(v[:, None])[:, 0]).pvalue > 1e-3


@KINDS
def test_gradients(kind: str) -> None:
    noise = 0.05 + 0.9 * torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    action = 1.8 * torch.rand(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.9
    x = raw(4, scale=1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: ActionDist(r, kind).sample(noise), x)
    assert torch.autograd.gradcheck(lambda r: ActionDist(r, kind).log_prob(action), x)
    assert torch.autograd.gradcheck(lambda r: ActionDist(r, kind).entropy(noise), x)
    (grad,) = torch.autograd.grad(ActionDist(x, kind).sample(noise).sum(), x)
    assert (grad.abs() > 1e-6).all()  # both mean and std move every sample


@KINDS
@pytest.mark.parametrize("min_std", [0.1, 0.01])
def test_extremes_are_finite(kind: str, min_std: float) -> None:
    values = torch.tensor([-20.0, 0.0, 20.0])
    noises = torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24])
    actions = torch.tensor([-1.0, 0.0, 1.0])
    mean, std, noise, action = (v.flatten() for v in torch.meshgrid(values, values, noises, actions, indexing="ij"))
    for function in ("sample", "log_prob", "entropy"):
        x = torch.stack((mean, std), -1).requires_grad_()
        dist = ActionDist(x, kind, min_std)
        value = getattr(dist, function)((action if function == "log_prob" else noise).unsqueeze(-1))
        assert value.isfinite().all()
        value.sum().backward()
        assert x.grad is not None and x.grad.isfinite().all(), function
        if function == "sample":
            assert value.abs().max() <= 1


def test_tanh_normal_by_change_of_variables() -> None:
    x = raw(100, scale=1.0)
    mean = 5 * torch.tanh(x[:, :3] / 5)
    std = 2 / (1 + torch.exp(-x[:, 3:] / 2)) + MIN_STD
    theirs = TransformedDistribution(Normal(mean, std), [TanhTransform()])
    dist = ActionDist(x, "tanh_normal")
    action = 1.98 * torch.rand(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.99
    torch.testing.assert_close(dist.log_prob(action), theirs.log_prob(action).sum(-1))
    noise = uniform(Key(0, 0), Stream.ACTION, (100, 3), dtype=torch.float64)
    expected = np.tanh(stats.norm.ppf(noise.numpy(), mean.numpy(), std.numpy()))
    np.testing.assert_allclose(dist.sample(noise).numpy(), expected, atol=1e-12)


@KINDS
def test_density_integrates_to_one(kind: str) -> None:
    dist = ActionDist(torch.tensor([[0.4, -1.0]], dtype=torch.float64), kind)
    mass = integrate.quad(lambda a: dist.log_prob(torch.tensor([[a]], dtype=torch.float64)).exp().item(), -1, 1)[0]
    assert mass == pytest.approx(1, abs=1e-3)


def test_tanh_normal_entropy_is_its_sample_estimate() -> None:
    dist = ActionDist(torch.tensor([[0.4, -1.0]], dtype=torch.float64).expand(20_000, 2), "tanh_normal")
    found = dist.entropy(uniform(Key(0, 0), Stream.ACTION, (20_000, 1), dtype=torch.float64)).mean().item()
    one = ActionDist(torch.tensor([[0.4, -1.0]], dtype=torch.float64), "tanh_normal")

    def integrand(a: float) -> float:
        log_p = one.log_prob(torch.tensor([[a]], dtype=torch.float64)).item()
        return -math.exp(log_p) * log_p

    assert found == pytest.approx(integrate.quad(integrand, -1, 1)[0], abs=0.02)


@KINDS
def test_mode(kind: str) -> None:
    x = raw(20)
    found = ActionDist(x, kind).mode()
    m = x[:, :3]
    torch.testing.assert_close(found, torch.tanh(m) if kind == "trunc_normal" else torch.tanh(5 * torch.tanh(m / 5)))
    # The mode of the one is its density's maximum; that of the other, its median.
    if kind == "trunc_normal":
        at_mode = ActionDist(x, kind).log_prob(found)
        for step in (-0.01, 0.01):
            assert (ActionDist(x, kind).log_prob((found + step).clamp(-1, 1)) <= at_mode).all()
    else:
        torch.testing.assert_close(found, ActionDist(x, kind).sample(torch.full((20, 3), 0.5, dtype=torch.float64)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_expected_action_is_the_mean(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.cat((raw(200), raw(50, scale=20.0)))  # wide and narrow ones, in the middle and at the edges
    np.testing.assert_allclose(ActionDist(x.to(dtype)).expected().numpy(), truncnorm(x).mean(), atol=tolerance)


def test_low_precision_is_widened() -> None:
    dist = ActionDist(raw(4).bfloat16())
    assert dist.mean.dtype == dist.std.dtype == torch.float32
