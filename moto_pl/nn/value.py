"""Small pieces of model-based value expansion."""

from __future__ import annotations

import torch
from torch import Tensor


def penalise(reward: Tensor, disagreement: Tensor, alpha: float) -> Tensor:
    """r~_{i+1} = r(s_{i+1}) - alpha * u(s_i, a_i) (MOTO, Eq. 2): two [H, B] -> [H, B]."""
    return reward - alpha * disagreement


def trajectory_weights(discount: Tensor, first: Tensor) -> Tensor:
    """w_i, how much step i of a rollout counts: ``first`` times the product of the discounts before it.

    Args:
        discount: of each step [H, B].
        first: [B], 1, or 0 where the rollout starts after an episode's end, so that nothing of it counts.

    Returns:
        [H + 1, B].
    """
    return torch.cat((first.unsqueeze(0), discount)).cumprod(0)
