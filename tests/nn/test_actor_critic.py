import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moto_pl.nn import EnsembleMLP
from moto_pl.nn.actor_critic import Actor, QEnsemble, ValueCritic, expand, masked_mean, trajectory_weights
from moto_pl.ops import Share


def scatter(module: torch.nn.Module, seed: int) -> None:
    """Random parameters for copies that start out equal."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 2


def alone(ensemble: EnsembleMLP, n: int, x: Tensor) -> Tensor:
    for i, (kernel, bias) in enumerate(zip(ensemble.kernels, ensemble.biases, strict=True)):
        x = (F.elu(x) if i else x) @ kernel[n] + bias[n, 0]
    return x.squeeze(-1)


def ensemble() -> tuple[QEnsemble, Tensor, Tensor]:
    torch.manual_seed(0)
    critic = QEnsemble(4, 5, 2, 2, 8)
    scatter(critic.online, 1)
    scatter(critic.target, 2)
    return critic, torch.randn(3, 6, 5, requires_grad=True), torch.randn(3, 6, 2, requires_grad=True)


def test_each_critic_is_its_own_network() -> None:
    critic, features, action = ensemble()
    q = critic(features, action)
    assert q.shape == (4, 3, 6)
    x = torch.cat((features, action), -1)
    for n in range(4):
        torch.testing.assert_close(q[n], alone(critic.online, n, x))
        torch.testing.assert_close(critic.target_value(features, action, torch.tensor([n])), alone(critic.target, n, x))
    assert not critic.target_value(features, action, torch.tensor([1])).requires_grad


@pytest.mark.parametrize("reduce", ["min", "mean", "max"])
def test_actor_value(reduce: str) -> None:
    critic, features, action = ensemble()
    all_q = torch.stack([alone(critic.online, n, torch.cat((features, action), -1)) for n in range(4)])
    expected = {"min": all_q.min(0).values, "mean": all_q.sum(0) / 4, "max": all_q.max(0).values}[reduce]
    found = critic.actor_value(features, action, reduce)
    torch.testing.assert_close(found, expected)
    theirs = torch.autograd.grad(expected.sum(), (features, action))
    found.sum().backward()
    torch.testing.assert_close((features.grad, action.grad), theirs)
    assert all(p.grad is None for p in critic.parameters())


def test_targets_begin_equal_move_by_copy_and_are_not_trained() -> None:
    for critic in (QEnsemble(2, 3, 1, 1, 4), ValueCritic(3, 1, 4)):
        pairs = list(zip(critic.online.parameters(), critic.target.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)
        assert not any(b.requires_grad for _, b in pairs) and all(a.requires_grad for a, _ in pairs)
        scatter(critic.online, 3)
        assert not any(torch.equal(a, b) for a, b in pairs)
        critic.update_target()
        assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
        assert not any(b.requires_grad for _, b in pairs)


def test_value_critic() -> None:
    critic = ValueCritic(3, 1, 4)
    scatter(critic.online, 1)
    scatter(critic.target, 2)
    features = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def by_hand(net: torch.nn.Module) -> Tensor:
        first, last = net.linears
        return (F.elu(features @ first.weight.T + first.bias) @ last.weight.T + last.bias)[..., 0]

    torch.testing.assert_close(critic(features), by_hand(critic.online))
    value = critic.target_value(features)
    torch.testing.assert_close(value, by_hand(critic.target))
    value.sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())


def test_actor() -> None:
    torch.manual_seed(0)
    actor = Actor(5, 3, 2, 8, "tanh_normal", min_std=0.7)
    features = torch.randn(4, 5)
    dist = actor.dist(features)
    out = actor.net(features)
    torch.testing.assert_close(dist.mean, 5 * torch.tanh(out[:, :3] / 5))
    torch.testing.assert_close(dist.std, 2 * torch.sigmoid(out[:, 3:] / 2) + 0.7)


def test_trajectory_weights_by_hand() -> None:
    discount = torch.tensor([[0.5, 1.0], [0.25, 0.0], [0.5, 1.0]])
    found = trajectory_weights(discount, torch.ones(2))
    assert found.tolist() == [[1.0, 1.0], [0.5, 1.0], [0.125, 0.0], [0.0625, 0.0]]
    ended = trajectory_weights(discount, torch.tensor([0.0, 1.0]))
    assert ended.tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_constant_discount_gives_powers() -> None:
    found = trajectory_weights(torch.full((14, 3), 0.99, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    for i in range(15):
        torch.testing.assert_close(found[i], torch.full((3,), 0.99**i, dtype=torch.float64))
    assert trajectory_weights(torch.zeros(0, 3), torch.ones(3)).tolist() == [[1.0, 1.0, 1.0]]


def test_expansion_by_hand() -> None:
    """Three states, two steps, one row; the second step ends the episode for certain."""
    reward, discount = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.0]])
    value = torch.tensor([[10.0], [20.0], [40.0]], requires_grad=True)
    returns, values = expand(reward, value, discount, 0.75)
    second = 2.0  # whatever comes after is worth nothing
    first = 1 + 0.5 * (0.25 * 20 + 0.75 * second)
    assert returns.tolist() == [[first], [second], [40.0]]
    assert values.tolist() == [[0.25 * 10 + 0.75 * first], [0.25 * 20 + 0.75 * second], [40.0]]
    values[0].sum().backward()
    assert value.grad is not None and value.grad.flatten().tolist() == [0.25, 0.75 * 0.5 * 0.25, 0.0]


def test_a_mean_over_what_counts() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    assert masked_mean(values, torch.tensor([1.0, 1.0, 0.0]), Share()) == 2.5
    assert masked_mean(values[0], torch.tensor([0.0, 1.0, 1.0]), Share()) == 5.5
    assert masked_mean(values, torch.zeros(3), Share()) == 0
