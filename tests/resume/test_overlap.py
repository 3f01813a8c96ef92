"""An overlapped run that is killed and started again ends bit for bit where the unbroken one ends.

So two of them are the same whatever the processes' pace: the one that is killed before any episode is asked for rolls
all of its own.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from moto_pl.replay import EpisodeStore
from runs import assert_same_end, fault, final, fit
from small_agents import make

OVERLAP = ("--data.collect", "overlap", "--data.build_missing", "false")


@pytest.fixture(scope="module")
def unbroken(reach_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("overlap") / "unbroken"
    done = fit(run, *OVERLAP, "--data.dataset", str(reach_dataset))
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "point", "signal_name"),
    [
        (20, "round_start", "SIGKILL"),
        (25, "first_batch", "SIGKILL"),
        (32, "batch_end", "SIGKILL"),
        (27, "batch_end", "SIGTERM"),
    ],
    ids=["before-any", "just-asked", "on-their-way", "stopped"],
)
def test_killed_run_ends_where_the_unbroken_one_ends(
    step: int, point: str, signal_name: str, reach_dataset: Path, unbroken: Path, tmp_path: Path
) -> None:
    data = (*OVERLAP, "--data.dataset", str(reach_dataset))
    broken = fit(tmp_path / "run", *data, *fault(step, point, signal_name))
    assert broken.returncode == (-signal.SIGKILL if signal_name == "SIGKILL" else 128 + signal.SIGTERM), broken.stderr
    checkpoint = final(tmp_path / "run")
    assert checkpoint["global_step"] < 40
    # What rolls the episodes on their way has learned less than the checkpoint's weights.
    ahead = checkpoint["callbacks"]["CollectEpisodes"].get("ahead")
    assert (ahead is None) == (checkpoint["global_step"] <= 20)
    if ahead is not None:
        assert ahead.keys() == checkpoint["state_dict"].keys()
        assert any(not torch.equal(weight, checkpoint["state_dict"][name]) for name, weight in ahead.items())
    resumed = fit(tmp_path / "run", *data)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert_same_end(unbroken, tmp_path / "run")


@pytest.mark.slow
def test_a_finished_run_has_none_on_their_way_and_alternating_asks_for_none(
    unbroken: Path, reach_dataset: Path
) -> None:
    assert "ahead" not in final(unbroken)["callbacks"]["CollectEpisodes"]
    store = EpisodeStore(unbroken / "replay")
    assert len(store) == 14 and len({store[i].info["seed"] for i in range(10, 14)}) == 4


def test_acting_as_a_snapshot_leaves_the_agent_as_it_was() -> None:
    agent = make("MOTO")
    trained = {name: weight.detach().clone() for name, weight in agent.named_parameters() if weight.requires_grad}
    agent.average.weights = {name: weight + 1 for name, weight in trained.items()}
    snapshot, average = agent.acting_snapshot(), agent.average.weights
    name = next(iter(trained))
    assert torch.equal(snapshot[name], trained[name] + 1) and torch.equal(agent.get_parameter(name), trained[name])
    with torch.no_grad():
        for weight in agent.parameters():
            weight.mul_(2)
    with agent.acting_as(snapshot), agent.acting_weights():
        assert torch.equal(agent.get_parameter(name), trained[name] + 1)
    assert torch.equal(agent.get_parameter(name), 2 * trained[name]) and agent.average.weights is average
    with pytest.raises(RuntimeError), agent.acting_as({"another": torch.zeros(1)}):
        pass
    assert torch.equal(agent.get_parameter(name), 2 * trained[name]) and agent.average.weights is average
