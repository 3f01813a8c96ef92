import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moto_pl.ops.latent import LatentSpec
from moto_pl.ops.observe import CellWeights, PosteriorWeights, gru, observe
from moto_pl.ops.philox import Key, Stream, normal, uniform

CATEGORICAL, GAUSSIAN = LatentSpec("categorical", 3, 4), LatentSpec("gaussian", 3)
BOTH = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])
KEY = Key(11, 4)


class Naive(nn.Module):
    """One step at a time, as the method is written: concatenated inputs, torch's own layers."""

    def __init__(self, latent: LatentSpec, deter: int, hidden: int, action: int, embed: int) -> None:
        super().__init__()
        self.latent, self.deter = latent, deter
        self.input = nn.Linear(latent.size + action, hidden)
        self.gates = nn.Linear(hidden + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter, eps=1e-3)
        self.hidden = nn.Linear(deter + embed, hidden)
        self.out = nn.Linear(hidden, latent.params)
        generator = torch.Generator().manual_seed(0)
        self.double()
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) / 1.5

    def weights(self) -> tuple[CellWeights, PosteriorWeights]:
        cell = CellWeights(self.input.weight, self.input.bias, self.gates.weight, self.norm.weight, self.norm.bias)
        head = PosteriorWeights(self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias)
        return cell, head

    def cell(self, stoch: Tensor, action: Tensor, deter: Tensor) -> Tensor:
        x = F.elu(self.input(torch.cat((stoch, action), -1)))
        gates = self.norm(self.gates(torch.cat((x, deter), -1)))
        size = self.deter
        reset = gates[..., :size].sigmoid()
        candidate = (reset * gates[..., size : 2 * size]).tanh()
        update = (gates[..., 2 * size :] - 1).sigmoid()
        return update * candidate + (1 - update) * deter

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        size = self.latent.stoch
        if self.latent.kind == "gaussian":
            return params[:size] + (2 / (1 + torch.exp(-params[size:] / 2)) + 0.1) * noise
        rows = []
        for s in range(size):
            probs = params.reshape(size, -1)[s].softmax(-1)
            total, index = 0.0, 0
            for index, p in enumerate(probs.tolist()):  # noqa: B007
                total += p
                if noise[s].item() <= total:
                    break
            one_hot = torch.eye(self.latent.classes, dtype=probs.dtype)[index]
            rows.append((one_hot - probs).detach() + probs)
        return torch.cat(rows)

    def forward(
        self, action: Tensor, embed: Tensor, is_first: Tensor, deter: Tensor, stoch: Tensor, key: Key
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch = is_first.shape
        size = self.latent.stoch
        draw = normal if self.latent.kind == "gaussian" else uniform
        numbers = draw(key, Stream.LATENT, (steps * batch * size,), dtype=torch.float64)
        deters, stochs, params = [], [], []
        for t in range(steps):
            row_deter, row_stoch, row_params = [], [], []
            for b in range(batch):
                h, z, a = deter[b], stoch[b], action[t, b]
                if is_first[t, b]:
                    h, z, a = torch.zeros_like(h), torch.zeros_like(z), torch.zeros_like(a)
                h = self.cell(z, a, h)
                p = self.out(F.elu(self.hidden(torch.cat((h, embed[t, b]), -1))))
                start = (t * batch + b) * size
                row_deter.append(h)
                row_stoch.append(self.sample(p, numbers[start : start + size]))
                row_params.append(p)
            deter, stoch = torch.stack(row_deter), torch.stack(row_stoch)
            deters.append(deter)
            stochs.append(stoch)
            params.append(torch.stack(row_params))
        return torch.stack(deters), torch.stack(stochs), torch.stack(params)


def inputs(latent: LatentSpec, steps: int, batch: int, deter: int, action: int, embed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps * 100 + batch)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    is_first = torch.rand(steps, batch, generator=generator) < 0.25
    return [
        draw(steps, batch, action),
        draw(steps, batch, embed),
        is_first,
        draw(batch, deter),
        draw(batch, latent.size),
    ]


# Sizes that are no multiples of anything, one step, one row.
SIZES = [(5, 3, 7, 9, 2, 5), (1, 3, 4, 6, 1, 3), (4, 1, 6, 5, 3, 1), (1, 1, 1, 1, 1, 1)]


@BOTH
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_against_naive_loop(latent: LatentSpec, sizes: tuple[int, ...]) -> None:
    steps, batch, deter, hidden, action, embed = sizes
    naive = Naive(latent, deter, hidden, action, embed)
    tensors = inputs(latent, steps, batch, deter, action, embed)
    found = observe(*tensors, *naive.weights(), latent, KEY)
    expected = naive(*tensors, KEY)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    # The gradient of a weighted sum of all outputs, in all weights and inputs.
    for x in tensors[:2] + tensors[3:]:
        x.requires_grad_()
    wanted = [*naive.parameters(), *tensors[:2], *tensors[3:]]

    def gradients(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(3)
        loss = sum((torch.randn(x.shape, generator=generator, dtype=x.dtype) * x).sum() for x in outputs)
        assert isinstance(loss, Tensor)
        return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)

    ours = gradients(observe(*tensors, *naive.weights(), latent, KEY))
    theirs = gradients(naive(*tensors, KEY))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
        assert a.isfinite().all()
    assert any(g.abs().max() > 1e-6 for g in ours)


@BOTH
def test_a_first_row_forgets(latent: LatentSpec) -> None:
    naive = Naive(latent, 6, 5, 2, 3)
    action, embed, is_first, deter, stoch = inputs(latent, 6, 2, 6, 2, 3)
    is_first[:] = False
    is_first[3, 0] = True

    def run(action: Tensor, embed: Tensor, deter: Tensor) -> tuple[Tensor, ...]:
        return observe(action, embed, is_first, deter, stoch, *naive.weights(), latent, KEY)

    before = run(action, embed, deter)
    action, embed = action.clone(), embed.clone()
    action[:4] += 1  # row 3's own action is one from before the reset
    embed[:3] -= 1
    after = run(action, embed, deter + 1)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[3:, 0], b[3:, 0])
    for a, b in ((before[0], after[0]), (before[2], after[2])):
        assert not torch.isclose(a[:3, 0], b[:3, 0]).all()
        assert not torch.isclose(a[3:, 1], b[3:, 1]).all()


def test_gradcheck() -> None:
    latent = LatentSpec("gaussian", 2)
    naive = Naive(latent, 3, 3, 2, 2)
    tensors = inputs(latent, 3, 2, 3, 2, 2)
    is_first = tensors.pop(2)
    weights = [w.detach().requires_grad_() for group in naive.weights() for w in group]

    def function(*x: Tensor) -> tuple[Tensor, ...]:
        return observe(x[0], x[1], is_first, x[2], x[3], CellWeights(*x[4:9]), PosteriorWeights(*x[9:]), latent, KEY)

    assert torch.autograd.gradcheck(function, [*(x.requires_grad_() for x in tensors), *weights])


def test_gru_by_hand() -> None:
    # One unit: LayerNorm over (reset, candidate, update) of logits (0, s, -s) with s = 3.
    weights = CellWeights(
        torch.zeros(1, 1),
        torch.zeros(1),
        torch.tensor([[0.0, 0.0], [3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64),
        torch.ones(3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    )
    x, deter = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    scaled = torch.tensor(3 / (6 + 1e-3) ** 0.5, dtype=torch.float64)  # variance (9 + 9) / 3
    update = torch.sigmoid(-scaled - 1)
    expected = update * torch.tanh(0.5 * scaled) + (1 - update) * 0.5
    torch.testing.assert_close(gru(x, deter, weights)[0, 0], expected)


@BOTH
def test_the_key_alone_decides(latent: LatentSpec) -> None:
    naive = Naive(latent, 4, 4, 2, 3)
    tensors = inputs(latent, 4, 6, 4, 2, 3)
    first, again, other = (observe(*tensors, *naive.weights(), latent, key)[1] for key in (KEY, KEY, Key(11, 5)))
    assert torch.equal(first, again) and not torch.equal(first, other)
