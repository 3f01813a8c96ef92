"""What an acting state is told is what the environment got, for every agent, wherever a policy meets an environment."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import listening_env
from moto_pl.agents.base import Agent, RunFacts
from moto_pl.agents.model_based import ModelBasedAgent
from moto_pl.analysis.episodes import roll_own
from moto_pl.callbacks.collect import CollectEpisodes, CollectSettings
from moto_pl.callbacks.evaluation import EvaluateEpisodes, EvaluationSettings
from moto_pl.envs.checks import NO_LIMIT_SET
from moto_pl.nn.world_model import WorldModel
from moto_pl.ops import Key
from moto_pl.rollout import background
from moto_pl.rollout.background import Job
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from moto_pl.schedule import Schedule
from runs import AGENTS
from small_agents import make

ENV = "listening_env:Listening-v0"
OPTIONS = {"episode_steps": 5}
EXPLORE = Exploration(noise=(0.3, 0.3), detours=(0.3, 0.3))


@pytest.fixture()
def told(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The actions that world models filter with from now on, in order; and the environment forgets what it heard."""
    listening_env.ListeningEnv.heard.clear()
    heard: list[torch.Tensor] = []
    step = WorldModel.step

    def listening(self: WorldModel, state: Any, action: torch.Tensor, *rest: Any) -> Any:
        heard.append(action.clone())
        return step(self, state, action, *rest)

    monkeypatch.setattr(WorldModel, "step", listening)
    return heard


def collecting(agent: Agent, root: Path) -> None:
    with EnvPool(ENV, OPTIONS, 0) as pool:
        roll_episodes(pool, agent, [3], "sample", Key(0, 1), EXPLORE)


def collecting_in_the_background(agent: Agent, root: Path) -> None:
    # What the process does, in a thread: what it rolls is then heard here.
    ours, theirs = multiprocessing.Pipe()
    arguments = theirs, (ENV, OPTIONS, 0, 60.0, NO_LIMIT_SET)
    thread = threading.Thread(target=background._serve, args=arguments, daemon=True)
    thread.start()
    made = background.Collector(ENV, OPTIONS, 0, 60.0)
    made._connection = ours
    made.submit(agent, Job([3], "mode", Key(0, 1), EXPLORE))
    made.fetch()
    made.close()
    thread.join(10)


def evaluating(agent: Agent, root: Path) -> None:
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="validate"), world_size=1)
    agent._trainer = trainer
    agent.meet(RunFacts(2, False, Schedule(0, 10, 1, 1)))
    collect = CollectEpisodes(CollectSettings(ENV, OPTIONS, env_workers=0))
    EvaluateEpisodes(EvaluationSettings(), collect).roll(trainer, agent, [7])
    collect.pool.close()


def analysing(agent: Agent, root: Path) -> None:
    (root / "config.yaml").write_text(yaml.safe_dump({"data": {"env": ENV, "env_options": OPTIONS}}))
    roll_own(agent, root, 1)


@pytest.mark.parametrize("place", [collecting, collecting_in_the_background, evaluating, analysing])
@pytest.mark.parametrize("name", AGENTS)
def test_the_state_is_told_what_was_executed(
    name: str, place: Callable[[Agent, Path], None], told: list[torch.Tensor], tmp_path: Path
) -> None:
    agent = make(name)
    place(agent, tmp_path)
    executed = np.stack(listening_env.ListeningEnv.heard)
    assert len(executed) == 6 and not executed[0].any()  # a pool tries an environment out when it starts
    executed = executed[1:]
    assert executed.shape == (5, 2) and np.ptp(executed) > 0 and np.abs(executed).max() <= 1
    if not isinstance(agent, ModelBasedAgent):
        assert not told and torch.equal(
            agent.executed(agent.initial_state(1), torch.ones(1, 2)), agent.initial_state(1)
        )
        return
    assert len(told) == 5 and not told[0].any()  # nothing was done before the first frame
    np.testing.assert_array_equal(torch.cat(told[1:]).numpy(), executed[:-1])


@pytest.mark.parametrize("name", [name for name in AGENTS if isinstance(make(name), ModelBasedAgent)])
def test_noise_and_clipping_reach_the_filter(
    name: str, told: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make(name)
    asked = []
    act = agent.act

    def listening(*args: Any) -> tuple[torch.Tensor, Any]:
        action, state = act(*args)
        asked.append(action)
        return action, state

    monkeypatch.setattr(agent, "act", listening)
    with EnvPool(ENV, OPTIONS, 0) as pool:
        roll_episodes(pool, agent, [3], "mode", Key(0, 1), Exploration(noise=(2.0, 2.0)))
    heard = torch.cat(told[1:])
    assert (heard.abs() == 1).any()  # clipped somewhere, at so much noise
    assert ((heard - torch.cat(asked[:-1])).abs() > 0.1).any(1).all()  # and never what was asked


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    listening_env.ListeningEnv.heard.clear()
