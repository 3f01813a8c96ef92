import torch

from moto_pl.nn.value import penalise, trajectory_weights


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


def test_penalise() -> None:
    reward = torch.tensor([[1.0, 2.0]], requires_grad=True)
    disagreement = torch.tensor([[0.5, 0.25]], requires_grad=True)
    found = penalise(reward, disagreement, 10.0)
    assert found.tolist() == [[-4.0, -0.5]]
    found.sum().backward()
    assert reward.grad is not None and reward.grad.tolist() == [[1.0, 1.0]]
    assert disagreement.grad is not None and disagreement.grad.tolist() == [[-10.0, -10.0]]
