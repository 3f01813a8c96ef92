"""Every agent resumes exactly."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import moto_pl.agents
from moto_pl.agents import Agent
from runs import AGENTS, assert_same_end, fault, final, fit


def test_all_agents_are_here() -> None:
    exported = [getattr(moto_pl.agents, name) for name in moto_pl.agents.__all__]
    assert {kind.__name__ for kind in exported if issubclass(kind, Agent) and kind is not Agent} == set(AGENTS)


@pytest.mark.slow
@pytest.mark.parametrize("agent", sorted(set(AGENTS) - {"MOTO"}))  # which has tests of its own
def test_killed_run_ends_where_the_unbroken_one_ends(agent: str, reach_dataset: Path, tmp_path: Path) -> None:
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    unbroken = fit(tmp_path / "unbroken", *data, agent=agent)
    assert unbroken.returncode == 0, unbroken.stderr
    killed = fit(tmp_path / "run", *data, *fault(33), agent=agent)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 0 < final(tmp_path / "run")["global_step"] < 40
    resumed = fit(tmp_path / "run", *data, agent=agent)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    assert_same_end(tmp_path / "unbroken", tmp_path / "run")
