"""Training steps on a device without values: no tensor is left on the CPU, and nothing waits for the device.

The meta device stands in for a GPU: an operation that mixes it with the CPU raises, and so does reading a value.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.train_step import AGENTS, agent_of_size, load_agent, random_batch
from moto_pl.agents import Agent
from moto_pl.ops import Key

CPU, META = torch.device("cpu"), torch.device("meta")


def step_and_act(agent: Agent) -> None:
    """Losses, their gradient, what follows the step, and an action, on the meta device."""
    agent.to(META)
    losses, metrics = agent.losses(random_batch(agent, META), Key(1, 2))
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    grads = [parameter.grad for parameter in agent.parameters() if parameter.grad is not None]
    assert grads
    assert {x.device for x in (*losses.values(), *metrics.values(), *grads)} == {META}
    agent.after_step(100)
    image = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device=META)
    state: Any = agent.initial_state(2)
    for mode in ("sample", "mode"):
        action, state = agent.act(image, torch.ones(2, dtype=torch.bool, device=META), state, mode, Key(3, 4))
        assert action.shape == (2, 4) and action.device == META


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent(name: str) -> None:
    step_and_act(agent_of_size(name, "debug", CPU))


OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian": {
        "world_model": {"latent": "gaussian"},
        "behaviour": {"disagreement": "max_var", "action": "tanh_normal", "imagine_member": "row"},
    },
    "logit": {"behaviour": {"disagreement": "logit", "imagine_rows": None}},
    "log_prob": {"behaviour": {"disagreement": "log_prob", "clone_filter": "advantage"}},
    "v": {"behaviour": {"critic": "v"}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_moto_with_options(options: dict[str, Any]) -> None:
    step_and_act(load_agent("debug", CPU, **options))
