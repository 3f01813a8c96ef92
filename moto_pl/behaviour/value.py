"""Small pieces of model-based value expansion."""

from __future__ import annotations

import torch
from torch import Tensor


def penalise(reward: Tensor, disagreement: Tensor, alpha: float) -> Tensor:
    """r~_{i+1} = r(s_{i+1}) - alpha * u(s_i, a_i) (MOTO, Eq. 2): two [H, B] -> [H, B]."""
    return reward - alpha * disagreement


def trajectory_weights(discount: Tensor) -> Tensor:
    """w_i, how much step i of a rollout counts: the product of the discounts before it. [H, B] -> [H + 1, B]."""
    first = discount.new_ones(1, *discount.shape[1:])
    return torch.cat((first, discount)).cumprod(0)
