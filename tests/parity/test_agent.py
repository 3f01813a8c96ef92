"""The demonstration's agent takes the same first step with the operators and with their references."""

from __future__ import annotations

import pytest
import torch

from benchmarks.train_step import load_agent, random_batch
from moto_pl.agents import MOTO
from moto_pl.ops import Key
from moto_pl.ops.extension import available

pytestmark = pytest.mark.skipif(not available(), reason="needs the compiled operators")


def first_step(ops: str, start: MOTO) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    agent = load_agent("demo", torch.device("cpu"))
    agent.load_state_dict(start.state_dict())
    agent.ops = agent.world_model.rssm.ops = ops  # type: ignore[assignment]
    torch.manual_seed(0)
    losses, _ = agent.losses(random_batch(agent, torch.device("cpu")), Key(0, 0))
    torch.stack(list(losses.values())).sum().backward()
    grads = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, grads


def test_first_step_of_the_demo() -> None:
    start = load_agent("demo", torch.device("cpu"))
    losses, grads = first_step("compiled", start)
    expected_losses, expected_grads = first_step("reference", start)
    assert losses.keys() == expected_losses.keys() and grads.keys() == expected_grads.keys()
    for name, loss in losses.items():
        assert loss == pytest.approx(expected_losses[name], rel=1e-3, abs=1e-4), name
    for name, grad in grads.items():
        # A draw that lies within rounding of a class's edge may differ, and with it a row of a batch.
        assert (grad - expected_grads[name]).norm() <= 0.02 * expected_grads[name].norm() + 1e-6, name
