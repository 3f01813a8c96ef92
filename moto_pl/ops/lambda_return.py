"""The batched lambda-return: compiled operator and plain-PyTorch reference."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SettingError
from .extension import Ops, check_tensors, use_compiled

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def _check(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> None:
    if not 0 <= lambda_ <= 1:
        raise SettingError("lambda_", lambda_, "Use a number from 0 to 1.")
    if reward.dim() != 2:
        raise SettingError("reward", f"shape {tuple(reward.shape)}", "Give it as [steps, batch].")
    if reward.dtype not in _DTYPES:
        raise SettingError("reward", reward.dtype, "Use float32, float64 or bfloat16.")
    steps, batch = reward.shape
    check_tensors("reward", reward, [("value", value, (steps + 1, batch)), ("discount", discount, (steps, batch))])


def lambda_return_ref(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Tensor:
    """The definition of :func:`lambda_return`, one PyTorch operation at a time. Same arguments and result.

    bfloat16 is summed in float32 and rounded once, at the end.
    """
    _check(reward, value, discount, lambda_)
    if not len(reward):
        return reward.clone()
    wide = torch.promote_types(reward.dtype, torch.float32)
    rewards, values, discounts = reward.to(wide), value.to(wide), discount.to(wide)
    running, returns = values[-1], []
    for i in reversed(range(len(rewards))):
        running = rewards[i] + discounts[i] * ((1 - lambda_) * values[i + 1] + lambda_ * running)
        returns.append(running)
    return torch.stack(returns[::-1]).to(reward.dtype)


def lambda_return(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float, ops: Ops = "auto") -> Tensor:
    """The lambda-return of H steps for a batch of B, differentiable once in all three tensors.

    ``G[i] = reward[i] + discount[i] * ((1 - lambda_) * value[i + 1] + lambda_ * G[i + 1])``, and ``G[H] = value[H]``.

    Args:
        reward: [H, B], received in going from state i to state i + 1. H may be 0. float32, float64 or bfloat16.
        value: [H + 1, B], of states 0 to H. ``value[0]`` enters no return and gets a zero gradient.
        discount: [H, B], gamma times the probability that the episode goes on in state i + 1; in [0, 1].
        lambda_: in [0, 1]: 0 looks one step ahead, 1 to the end.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device.

    Returns:
        [H, B], G[0] to G[H - 1], in reward's dtype.

    Raises:
        SettingError: naming the argument whose shape, dtype, device or value is wrong, or ``ops`` where it is
            ``compiled`` and the operator was not built.
    """
    if not use_compiled(ops, reward.device):
        return lambda_return_ref(reward, value, discount, lambda_)
    _check(reward, value, discount, lambda_)
    returns: Tensor = torch.ops.moto.lambda_return(reward, value, discount, lambda_)
    return returns
