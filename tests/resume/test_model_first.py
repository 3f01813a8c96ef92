"""A run that trains the world model first resumes exactly, in each of its three stretches."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runs import assert_same_end, fault, final, fit

STRETCHES = ("--data.pretrain", "model_first", "--data.model_steps", "10", "--data.offline_steps", "10")
SHORT = ("--data.offline_round_steps", "5")  # so that each stretch has a round's end inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["MOTO", "LOMPO"])
def unbroken(request: pytest.FixtureRequest, reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model_first") / str(request.param)
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    done = fit(run, *data, *STRETCHES, *SHORT, agent=request.param)
    assert done.returncode == 0, done.stderr
    assert "10 gradient steps of the world model, then 10 gradient steps of actor and critics" in done.stderr
    return run


def test_killed_again_and_again_it_ends_where_the_unbroken_one_ends(
    reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    """In each stretch by both kinds of signals, and just after one has begun: what one resume loses stays lost."""
    run = tmp_path / "run"
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false", *STRETCHES, *SHORT)
    resumed = False
    for step, name, saved in (
        *((7, "SIGKILL", 5), (8, "SIGTERM", 8)),  # the world model
        *((12, "SIGKILL", 10), (17, "SIGTERM", 17), (18, "SIGKILL", 17)),  # actor and critics
        (33, "SIGKILL", 30),  # online
    ):
        killed = fit(run, *data, *fault(step, signal_name=name), agent=unbroken.name)
        number = signal.Signals[name]
        assert killed.returncode == (-number if name == "SIGKILL" else 128 + number), killed.stderr
        assert ("resuming" in killed.stdout) == resumed
        assert final(run)["global_step"] == saved
        resumed = True
    last = fit(run, *data, agent=unbroken.name)
    assert last.returncode == 0, last.stderr
    assert "resuming" in last.stdout
    assert_same_end(unbroken, run)


def test_what_is_idle_stays_as_it_is(unbroken: Path) -> None:
    """The world model at the end of pre-training is that of the run's tenth step; actor and critics began there."""
    pretrained = unbroken / "checkpoints/pretrained.ckpt"
    assert final(unbroken)["global_step"] == 40 and pretrained.exists()
    import torch

    states = torch.load(pretrained, weights_only=True)["optimizer_states"][0]["state"]
    steps = {int(state["step"]) for state in states.values()}
    assert steps == {10}  # of twenty
    assert {int(state["step"]) for state in final(unbroken)["optimizer_states"][0]["state"].values()} == {30}


def test_agents_without_a_world_model_refuse(tmp_path: Path) -> None:
    refused = fit(tmp_path / "run", *STRETCHES, agent="IQL")
    assert refused.returncode == 2
    said = refused.stderr.strip().splitlines()[-1]
    assert said.startswith("moto: data.pretrain: found model_first. IQL has no world model")
    assert not (tmp_path / "run").exists()
