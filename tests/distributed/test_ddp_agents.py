"""Two processes take the steps of one, whatever the agent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runs import AGENTS, final, fit, fit_ranks

pytestmark = pytest.mark.slow
APART = ("--data.pretrain", "model_first", "--data.model_steps", "3", "--data.offline_steps", "3")


@pytest.mark.parametrize(
    ("agent", "steps"),
    [
        *((agent, ("--data.offline_steps", "6")) for agent in sorted(set(AGENTS) - {"MOTO"})),  # it has its own tests
        ("DreamerV2", APART),  # no process may wait for a gradient of what does not train
        ("LOMPO", APART),
    ],
)
def test_gradients_are_those_of_one_process(
    agent: str, steps: tuple[str, ...], reach_dataset: Path, tmp_path: Path
) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", "--data.eval_episodes", "0")
    short = (*data, *steps, "--data.online_steps", "0")
    two = fit_ranks(tmp_path / "two", *short, agent=agent)
    one = fit(tmp_path / "one", *short, agent=agent)
    assert two.returncode == 0 and one.returncode == 0, two.stderr + one.stderr
    a, b = final(tmp_path / "two"), final(tmp_path / "one")
    assert a["global_step"] == b["global_step"] == 6
    moments = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert len(moments[0]) > 4
    for index in moments[0]:
        left, right = (m[index]["exp_avg"] for m in moments)
        assert (left - right).abs().max() <= 1e-3 * right.abs().max() + 1e-7, index
    for name, weight in a["state_dict"].items():
        torch.testing.assert_close(weight, b["state_dict"][name], rtol=1e-3, atol=1e-4, msg=name)
