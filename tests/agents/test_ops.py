"""Training with the compiled operators is training with the references."""

from __future__ import annotations

import pytest
import torch

from benchmarks.train_step import load_agent, random_batch
from moto_pl.ops import Key


def first_step(config: str, ops: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients of a configuration's first training step."""
    torch.manual_seed(0)
    agent = load_agent(config, torch.device("cpu"), ops=ops)
    assert agent.ops == agent.world_model.rssm.ops == ops
    losses, _ = agent.losses(random_batch(agent, torch.device("cpu")), Key(1, 2))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    return losses, {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("config", ["debug", "demo"])
def test_the_first_step_is_the_references(config: str) -> None:
    (losses, gradients), (expected, references) = first_step(config, "compiled"), first_step(config, "reference")
    assert losses.keys() == expected.keys() and gradients.keys() == references.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, gradient in gradients.items():
        # Relative to the tensor: sums of another order cancel differently in its small elements.
        distance = (gradient - references[name]).norm() / references[name].norm().clamp(min=1e-8)
        assert distance < 2e-3, (name, distance)
    assert {name.split(".")[0] for name in gradients} >= {"world_model", "actor", "critic"}
