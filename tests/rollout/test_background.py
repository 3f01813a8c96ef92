"""Episodes that are rolled elsewhere are those that would have been rolled here; whole runs: resume/test_overlap.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from moto_pl.agents import MOTO
from moto_pl.errors import SettingError
from moto_pl.nn.world_model import WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout import background
from moto_pl.rollout.background import Collector, Job
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes
from moto_pl.threads import ONE_THREAD

pytestmark = pytest.mark.slow
ENV, OPTIONS = "moto_pl/Reach-v0", {"episode_steps": 6}
JOB = Job([3], "sample", Key(0, 1), Exploration(noise=(0.0, 0.2)))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector(ENV, OPTIONS, 0, 60)
    yield made
    made.close()


@pytest.fixture()
def agent() -> MOTO:
    sizes = {"encoder_channels": (2, 2, 2, 2), "decoder_channels": (2, 2, 2), "ensemble": 2}
    made = MOTO(WorldModelConfig(deter=8, hidden=8, stoch=2, classes=2, **sizes))
    torch.manual_seed(0)
    made.action_size = 2
    made.build(2)
    return made


def here(agent: MOTO) -> Episode:
    with EnvPool(ENV, OPTIONS, 0) as pool:
        return roll_episodes(pool, agent, *JOB)[0]


def assert_same(left: Episode, right: Episode) -> None:
    assert np.array_equal(left.image, right.image) and np.array_equal(left.action, right.action)
    assert np.array_equal(left.reward, right.reward) and left.info == right.info


def test_same_episodes_with_the_weights_of_the_moment(collector: Collector, agent: MOTO) -> None:
    before = here(agent)
    collector.submit(agent, JOB)
    with torch.no_grad():
        for weight in agent.actor.parameters():
            weight.add_(1.0)  # what is learned meanwhile changes nothing
    assert collector.busy
    assert_same(collector.fetch()[0], before)
    assert not collector.busy
    collector.submit(agent, JOB)
    after = collector.fetch()[0]
    assert_same(after, here(agent))
    assert not np.array_equal(after.action, before.action)


def test_an_error_there_is_raised_here_and_the_process_goes_on(collector: Collector, agent: MOTO) -> None:
    collector.submit(agent, JOB._replace(seeds=[3, 4]))
    process = collector._process
    with pytest.raises(SettingError, match=r"seeds: found 2 of them\. Give 1 to 1, one an environment"):
        collector.fetch()
    assert not collector.busy
    collector.submit(agent, JOB)
    assert_same(collector.fetch()[0], here(agent))
    assert collector._process is process


def test_an_environment_that_cannot_be_made_is_said(agent: MOTO) -> None:
    ours, theirs = Pipe()
    made = Collector("moto_pl/NoSuch-v0", {}, 0, 60)
    made._connection = ours
    serving = threading.Thread(target=background._serve, args=(theirs, ("moto_pl/NoSuch-v0", {}, 0, 60)))
    serving.start()
    made.submit(agent, JOB)
    with pytest.raises(SettingError, match="NoSuch"):
        made.fetch()
    made.close()
    serving.join(10)
    assert not serving.is_alive()


def test_the_process_has_one_thread(agent: MOTO, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "3")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    made = Collector("busy:moto_pl_test/Busy-v0", OPTIONS, 0, 60)
    made.submit(agent, JOB)
    assert (made.fetch()[0].reward == 1).all()
    made.close()


def test_a_process_that_dies_is_replaced(collector: Collector, agent: MOTO) -> None:
    collector.submit(agent, JOB)
    collector._process.kill()
    assert_same(collector.fetch()[0], here(agent))


def test_one_that_dies_again_and_again_is_given_up(agent: MOTO, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Collector(ENV, OPTIONS, 0, 60)
    start, started = SpawnProcess.start, []

    def start_and_kill(process: SpawnProcess) -> None:
        start(process)
        process.kill()
        started.append(process)

    monkeypatch.setattr(SpawnProcess, "start", start_and_kill)
    made.submit(agent, JOB)
    with pytest.raises(SettingError, match=r"data\.collect: found overlap, whose process died 3 times"):
        made.fetch()
    assert not made.busy and len(started) == 3 and not any(process.is_alive() for process in started)
