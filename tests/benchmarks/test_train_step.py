import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step_against, step_profile, train_step
from benchmarks.train_step import load_agent, random_batch, take_step

ROOT = Path(__file__).parents[2]


def test_probe_repeats_itself_and_names_what_it_compares() -> None:
    found = step_against.probe("debug", 2, None)
    assert {"wall", "cpu", "wall_min", "cpu_min", "first", "agent"} == set(found)
    assert found["wall"] >= found["wall_min"] > 0
    assert "model/image" in found["first"] and "world_model.encoder.convs.0.weight" in found["first"]
    command = [sys.executable, "-P", "-c", "import json; from benchmarks.step_against import probe; import sys; "]
    command[-1] += "sys.stdout.write(json.dumps(probe('debug', 1, None)))"
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    # Another process has the same weights and batch: to the bit.
    assert json.loads(done.stdout)["first"] == found["first"]


def test_both_trees_train_the_agent_of_the_earlier_one() -> None:
    # This tree in the place of an earlier one.
    settings = step_against._settings(ROOT, "debug")
    assert settings["class_path"] == "moto_pl.agents.moto.MOTO"
    same = step_against.probe("debug", 1, settings)["first"]
    assert same == step_against.probe("debug", 1, None)["first"]
    settings["init_args"]["world_model"]["open_loop_steps"] = 4
    other = step_against.probe("debug", 1, settings)["first"]
    assert "model/open_loop_kl" in other and "model/open_loop_kl" not in same


@pytest.mark.parametrize("name", train_step.AGENTS)
def test_a_step_of_every_agent(name: str) -> None:
    agent = train_step.agent_of_size(name, "debug", torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in agent.parameters()]
    take_step(agent, random_batch(agent, agent.device), train_step.optimizer_of(agent))
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))


def test_summary() -> None:
    def times(second: float, loss: float) -> dict[str, object]:
        return {"wall": second, "cpu": second, "wall_min": second / 2, "cpu_min": second, "first": {"loss": loss}}

    pairs = [
        {"ours": times(1.0, 2.0), "theirs": times(2.0, 2.0002)},
        {"ours": times(2.0, 2.0), "theirs": times(3.0, 2.0002)},
        {"ours": times(1.0, 2.0), "theirs": times(3.0, 2.0002)},
    ]
    found = step_against._summary(pairs)
    assert (found["wall"]["ratio"], found["wall"]["ratio_min"], found["wall"]["ratio_max"]) == (2.0, 1.5, 3.0)
    assert found["wall"]["ratio_best"] == 2.0 and found["cpu"]["ours_s"] == 1.0
    assert found["apart"] == pytest.approx(1e-4, rel=1e-3)


def test_parts_of_a_step() -> None:
    agent = load_agent("debug", torch.device("cpu"))
    batch = random_batch(agent, torch.device("cpu"))
    optimizer = train_step.optimizer_of(agent)
    parts = step_profile.profile_parts(lambda: take_step(agent, batch, optimizer), 2)
    assert {"encoder", "decoder", "image loss", "observe", "imagine", "critics", "actor", "optimizer"} <= set(parts)
    # What has weights or passes a gradient on has a backward of its own.
    for part in ("encoder", "decoder", "image loss", "observe", "imagine", "critics"):
        forward, backward = parts[part]
        assert forward > 0 and backward > 0, part
    assert parts["optimizer"][1] == 0
