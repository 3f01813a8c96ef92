import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, Normal, OneHotCategorical, kl_divergence

from moto_pl.ops.latent import LatentSpec, disagreement, draw_noise, entropy, kl, log_prob, mode, sample
from moto_pl.ops.philox import Key, Stream, normal, uniform

CATEGORICAL = LatentSpec("categorical", 3, 5)
GAUSSIAN = LatentSpec("gaussian", 4)
BOTH = pytest.mark.parametrize("spec", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])


def draw(spec: LatentSpec, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(*shape, spec.params, generator=generator, dtype=torch.float64)


def reference(spec: LatentSpec, params: torch.Tensor) -> torch.distributions.Distribution:
    if spec.kind == "gaussian":
        mean, raw = params[..., : spec.stoch], params[..., spec.stoch :]
        return Independent(Normal(mean, 2 / (1 + torch.exp(-raw / 2)) + 0.1), 1)
    return Independent(OneHotCategorical(logits=params.reshape(*params.shape[:-1], spec.stoch, spec.classes)), 1)


def test_sizes() -> None:
    assert (CATEGORICAL.size, CATEGORICAL.params) == (15, 15)
    assert (GAUSSIAN.size, GAUSSIAN.params) == (4, 8)
    assert draw_noise(CATEGORICAL, Key(0, 0), (7, 2), torch.zeros(())).shape == (7, 2, 3)


def test_noise_is_of_its_kind() -> None:
    key, like = Key(1, 1), torch.zeros((), dtype=torch.float64)
    assert torch.equal(draw_noise(CATEGORICAL, key, (6,), like), uniform(key, Stream.LATENT, (6, 3), dtype=like.dtype))
    assert torch.equal(draw_noise(GAUSSIAN, key, (6,), like), normal(key, Stream.LATENT, (6, 4), dtype=like.dtype))


def test_categorical_is_drawn_by_inversion() -> None:
    params, noise = (
        draw(CATEGORICAL, 50),
        draw_noise(CATEGORICAL, Key(0, 0), (50,), torch.zeros((), dtype=torch.float64)),
    )
    found = sample(CATEGORICAL, params, noise).reshape(50, 3, 5)
    probs = params.reshape(50, 3, 5).softmax(-1).numpy()
    for b in range(50):
        for s in range(3):
            index = np.searchsorted(np.cumsum(probs[b, s]), noise[b, s].item())
            assert found[b, s].tolist() == np.eye(5)[index].tolist()


def test_categorical_frequencies() -> None:
    params = draw(CATEGORICAL, 1).float().expand(20_000, -1)
    counts = sample(CATEGORICAL, params, draw_noise(CATEGORICAL, Key(2, 3), (20_000,), params)).sum(0).reshape(3, 5)
    expected = 20_000 * params[0].reshape(3, 5).softmax(-1).double()
    for s in range(3):
        assert stats.chisquare(counts[s].numpy(), expected[s].numpy() / expected[s].sum().item() * 20_000).pvalue > 1e-3


def test_largest_noise_still_gives_a_one_hot() -> None:
    spec = LatentSpec("categorical", 500, 32)
    params = torch.randn(20, spec.params, generator=torch.Generator().manual_seed(0))
    for noise in (2.0**-24, 1 - 2.0**-24):
        z = sample(spec, params, torch.full((20, 500), noise)).reshape(20, 500, 32)
        assert (z.sum(-1) == 1).all() and ((z == 0) | (z == 1)).all()


def test_gaussian_sample_and_moments() -> None:
    params = draw(GAUSSIAN, 1).float()
    noise = draw_noise(GAUSSIAN, Key(0, 0), (20_000,), params)
    z = sample(GAUSSIAN, params.expand(20_000, -1), noise).double().numpy()
    raw = params[0].double().numpy()
    for s in range(4):
        std = 2 / (1 + math.exp(-raw[4 + s] / 2)) + 0.1
        assert stats.kstest(z[:, s], "norm", (raw[s], std)).pvalue > 1e-3


def test_gaussian_std_range() -> None:
    std = GAUSSIAN.moments(torch.tensor([0.0] * 4 + [-1e4, 0.0, 1e4, 2.0]))[1]
    torch.testing.assert_close(std, torch.tensor([0.1, 1.1, 2.1, 2 / (1 + math.exp(-1)) + 0.1]))


def test_softplus_std() -> None:
    spec = LatentSpec("gaussian", 4, std="softplus")
    params = torch.tensor([1.0, 2.0, 3.0, 4.0, -1e4, 0.0, 50.0, 2.0], dtype=torch.float64)
    mean, std = spec.moments(params)
    assert mean.tolist() == [1, 2, 3, 4]
    expected = [0.1, math.log(2) + 0.1, 50.1, math.log1p(math.exp(2)) + 0.1]
    torch.testing.assert_close(std, torch.tensor(expected, dtype=torch.float64))
    # All that depends on the std takes this one.
    noise = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(sample(spec, params, noise), mean + std)
    other = draw(spec)
    ours, theirs = (Independent(Normal(*spec.moments(p)), 1) for p in (params, other))
    torch.testing.assert_close(kl(spec, params, other), kl_divergence(ours, theirs))
    torch.testing.assert_close(log_prob(spec, params, mean + 0.3), ours.log_prob(mean + 0.3))
    torch.testing.assert_close(entropy(spec, params), ours.entropy())
    assert (
        disagreement(spec, torch.stack((params, other)), mean, "max_var")
        == torch.stack((std.norm(), spec.moments(other)[1].norm())).max()
    )


def test_straight_through_gradient_is_the_softmaxs() -> None:
    params = draw(CATEGORICAL, 2).requires_grad_()
    noise = torch.rand(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = draw(CATEGORICAL, 2, seed=5)
    (found,) = torch.autograd.grad((sample(CATEGORICAL, params, noise) * weight).sum(), params)
    probs = params.detach().reshape(2, 3, 5).softmax(-1)
    for b in range(2):
        for s in range(3):
            p = probs[b, s]
            jacobian = torch.diag(p) - torch.outer(p, p)
            torch.testing.assert_close(found.reshape(2, 3, 5)[b, s], jacobian @ weight.reshape(2, 3, 5)[b, s])


def test_gaussian_sample_gradient() -> None:
    noise = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: sample(GAUSSIAN, p, noise), draw(GAUSSIAN, 2).requires_grad_())


@BOTH
def test_kl_entropy_and_log_prob(spec: LatentSpec) -> None:
    left, right = draw(spec, 6, 2), draw(spec, 6, 2, seed=1)
    theirs = reference(spec, left)
    torch.testing.assert_close(kl(spec, left, right), kl_divergence(theirs, reference(spec, right)))
    torch.testing.assert_close(kl(spec, left, left), torch.zeros(6, 2, dtype=torch.float64))
    torch.testing.assert_close(entropy(spec, left), theirs.entropy())
    torch.manual_seed(0)
    z = theirs.sample()
    torch.testing.assert_close(log_prob(spec, left, z.reshape(6, 2, -1)), theirs.log_prob(z))


def test_kl_of_far_apart_categoricals_is_finite() -> None:
    spec = LatentSpec("categorical", 1, 2)
    left = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = kl(spec, left, -left.detach())
    value.backward()
    torch.testing.assert_close(value, torch.tensor([400.0]))
    assert left.grad is not None and left.grad.isfinite().all()


def test_mode() -> None:
    params = draw(CATEGORICAL, 7)
    index = Categorical(logits=params.reshape(7, 3, 5)).probs.argmax(-1)
    assert torch.equal(mode(CATEGORICAL, params).reshape(7, 3, 5).argmax(-1), index)
    assert mode(CATEGORICAL, params).sum() == 21
    params = draw(GAUSSIAN, 7)
    assert torch.equal(mode(GAUSSIAN, params), params[:, :4])


# An ensemble of three, one variable of two classes, in one state; logits chosen so that probabilities are round.
LOGITS = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
PROBS = [[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


def test_disagreement_of_categoricals_by_hand() -> None:
    spec, z = LatentSpec("categorical", 1, 2), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    params = LOGITS.unsqueeze(1)  # [3, 1, 2]
    half = math.sqrt(2 / 3) / 4
    expected = {
        "mean": half,  # both classes deviate by 0, 1/4 and -1/4
        "logit": spread([0.0, math.log(3), 0.0]),
        "log_prob": spread([math.log(p[0]) for p in PROBS]),
    }
    for kind, value in expected.items():
        assert disagreement(spec, params, z, kind).tolist() == pytest.approx([value], abs=1e-12), kind


def test_disagreement_averages_over_variables_and_adds_log_probs() -> None:
    spec = LatentSpec("categorical", 2, 2)
    params = torch.cat((LOGITS, LOGITS[[1, 1, 1]]), -1).unsqueeze(1)  # the second variable is agreed upon
    z = torch.tensor([[0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    assert disagreement(spec, params, z, "mean").item() == pytest.approx(math.sqrt(2 / 3) / 8, abs=1e-6)
    assert disagreement(spec, params, z, "logit").item() == pytest.approx(spread([0, math.log(3), 0]) / 2, abs=1e-6)
    found = disagreement(spec, params, z, "log_prob").item()
    assert found == pytest.approx(spread([math.log(p[1]) for p in PROBS]), abs=1e-6)


def test_disagreement_of_gaussians_by_hand() -> None:
    spec = LatentSpec("gaussian", 2)
    mean = [[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]]
    std = [[1.1, 1.1], [0.6, 0.3], [0.2, 1.4]]
    raw = [[2 * math.log((s - 0.1) / (2.1 - s)) for s in row] for row in std]  # the inverse of 2 sigmoid(x / 2) + 0.1
    params = torch.tensor([m + r for m, r in zip(mean, raw, strict=True)], dtype=torch.float64).unsqueeze(1)
    z = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    densities = [sum(stats.norm.logpdf([2.0, 1.0], m, s)) for m, s in zip(mean, std, strict=True)]
    expected = {
        "mean": (spread([1, 3, 5]) + spread([0, 0, 3])) / 2,
        "logit": (spread([1, 3, 5]) + spread([0, 0, 3])) / 2,
        "log_prob": spread(densities),
        "max_var": math.hypot(1.1, 1.1),
    }
    for kind, value in expected.items():
        assert disagreement(spec, params, z, kind).tolist() == pytest.approx([value], abs=1e-9), kind


@BOTH
@pytest.mark.parametrize("kind", ["mean", "logit", "log_prob"])
def test_disagreement_of_one_member_is_nothing(spec: LatentSpec, kind: str) -> None:
    params = draw(spec, 1, 4).requires_grad_()
    z = mode(spec, params[0].detach())
    value = disagreement(spec, params, z, kind)
    value.sum().backward()
    assert value.shape == (4,) and (value >= 0).all() and (value < 1e-5).all()
    assert params.grad is not None and torch.equal(params.grad, torch.zeros_like(params))


@BOTH
@pytest.mark.parametrize("kind", ["mean", "logit", "log_prob"])
def test_disagreement_has_gradient(spec: LatentSpec, kind: str) -> None:
    z = torch.randn(2, spec.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    params = draw(spec, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, z: disagreement(spec, p, z, kind), (params, z))
    (grad,) = torch.autograd.grad(disagreement(spec, params, z, kind).sum(), params)
    assert grad.abs().max() > 1e-3


def test_max_var_needs_gaussians() -> None:
    with pytest.raises(ValueError, match="max_var"):
        disagreement(CATEGORICAL, draw(CATEGORICAL, 3, 2), torch.zeros(2, 15), "max_var")
