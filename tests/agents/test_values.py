"""What critics say against what is earned: the figures, and where they come from."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_acting import ENV, OPTIONS, make

from moto_pl.agents.base import Agent, RunFacts
from moto_pl.agents.model_free import TwinCriticAgent
from moto_pl.callbacks.collect import CollectEpisodes, CollectSettings
from moto_pl.callbacks.evaluation import EvaluateEpisodes, EvaluationSettings
from moto_pl.callbacks.metrics import EpisodeMetrics, return_to_go
from moto_pl.envs.reach import ReachEnv
from moto_pl.errors import SettingError
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.replay.sampler import SequenceBatch, episode_batch
from moto_pl.rollout.explore import Exploration
from moto_pl.rollout.pool import EnvPool
from moto_pl.rollout.roll import roll_episodes, roll_on
from moto_pl.schedule import Schedule
from moto_pl.training.datamodule import OfflineToOnlineDataModule

CRITICS = ["MOTO", "DreamerV2", "LOMPO", "COMBO", "SAC", "CQL", "IQL"]


def whole(episode: Episode) -> SequenceBatch:
    return episode_batch(episode, torch.device("cpu"))


def test_return_to_go_by_hand() -> None:
    assert return_to_go(np.array([1.0, 0.0, 4.0]), 0.5).tolist() == [2.0, 2.0, 4.0]
    assert return_to_go(np.zeros(0), 0.5).tolist() == []


def test_bias_and_correlation_are_those_of_all_steps() -> None:
    rng = np.random.default_rng(0)
    metrics, values, earned = EpisodeMetrics(), rng.normal(3, 2, 30), rng.normal(1, 1, 30)
    for part in (slice(0, 12), slice(12, 30)):
        metrics.add_values(values[part], earned[part], cut=False)
    found = metrics._values()
    assert found["return_to_go"].item() == pytest.approx(earned.mean(), rel=1e-5)
    assert found["value_bias"].item() == pytest.approx((values - earned).mean(), rel=1e-5)
    assert found["value_correlation"].item() == pytest.approx(np.corrcoef(values, earned)[0, 1], rel=1e-5)
    metrics.add_values(values[:3], earned[:3], cut=True)
    assert set(metrics._values()) == {"return_to_go", "value_bias_cut", "value_correlation_cut"}
    constant = EpisodeMetrics()
    constant.add_values(values, np.full(30, 7.3), cut=False)
    assert set(constant._values()) == {"return_to_go", "value_bias"}
    assert EpisodeMetrics()._values() == {}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_time_limit_is_no_end(workers: int) -> None:
    """The simulator goes on past it, as one with a later limit would; the episode itself is the same."""
    agent: Any = make("MOTO")
    dense = {"reward": "dense"}
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 6, **dense}, workers) as pool:
        alone = roll_episodes(pool, agent, [3], "mode", Key(0, 1))[0]
        (rolled,) = roll_on(pool, agent, [3], "mode", Key(0, 1), beyond=4)
        again = roll_episodes(pool, agent, [3], "mode", Key(0, 1))[0]
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 10, **dense}, 0) as pool:
        longer = roll_episodes(pool, agent, [3], "mode", Key(0, 1))[0]
    assert np.array_equal(rolled.episode.reward, alone.reward) and np.array_equal(alone.image, again.image)
    assert rolled.episode.length == 6 and rolled.episode.truncated
    np.testing.assert_array_equal(np.concatenate((rolled.episode.reward, rolled.beyond)), longer.reward)


class EndingEnv(ReachEnv):
    """Ends in its third step."""

    def step(self, action: np.ndarray) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self._steps == 3, truncated, info


def test_an_end_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.rollout.host.make", lambda *_, **options: EndingEnv(**options))
    with EnvPool("moto_pl/Reach-v0", {}, 0) as pool:
        (rolled,) = roll_on(pool, make("BC"), [3], "mode", Key(0, 1), beyond=4)
    assert rolled.episode.length == 3 and rolled.episode.terminated and len(rolled.beyond) == 0


@pytest.mark.parametrize("name", CRITICS)
def test_values_are_the_critics_of_the_states_in_which_it_acted(name: str) -> None:
    agent: Any = make(name)
    with EnvPool(ENV, OPTIONS, 0) as pool:
        episode = roll_episodes(pool, agent, [3], "mode", Key(0, 1), Exploration(noise=(0.3, 0.3)))[0]
    found = agent.action_values(whole(episode), Key(0, 2))
    assert found.shape == (5,) and found.detach().std() > 0
    assert agent.gamma == 0.99
    state = agent.initial_state(1)
    for t in range(5 if isinstance(agent, TwinCriticAgent) else 0):  # as it acts: frame by frame
        image = torch.from_numpy(episode.image[t].transpose(2, 0, 1).copy()).unsqueeze(0)
        _, state = agent.act(image, torch.tensor([t == 0]), state, "mode", Key(0, 2).fold(t))
        q = agent.critic(agent.critic.encoder(state), torch.from_numpy(episode.action[t : t + 1]))
        torch.testing.assert_close(found[t : t + 1], {"min": q.amin(0), "mean": q.mean(0)}[agent.actor_value])
    assert make("BC").action_values(whole(episode), Key(0, 2)) is None


def test_model_based_values_are_of_posterior_states() -> None:
    agent: Any = make("MOTO")
    with EnvPool(ENV, OPTIONS, 0) as pool:
        episode = roll_episodes(pool, agent, [3], "sample", Key(0, 1))[0]
    states = agent.world_model.observe(whole(episode), Key(0, 2)).states
    q = agent.critic(states.features[:-1, 0], torch.from_numpy(episode.action))  # [N, T]
    torch.testing.assert_close(agent.action_values(whole(episode), Key(0, 2)), q.amin(0))


class Knowing(Agent):
    """Says of every action what it was told to."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def action_values(self, batch: SequenceBatch, key: Key) -> torch.Tensor:
        return torch.full((batch.reward.shape[1] - 1,), self.value)

    @property
    def gamma(self) -> float:
        return 0.5

    parts = build = param_groups = losses = initial_state = act = None  # type: ignore[assignment]


@pytest.mark.parametrize(("beyond", "cut"), [(0, True), (2, True), (5, False)])
def test_rewards_beyond_count_and_a_cut_is_said(beyond: int, cut: bool) -> None:
    Knowing.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    agent: Any = Knowing(1.0)
    image, action = np.zeros((4, 64, 64, 3), np.uint8), np.zeros((3, 2), np.float32)
    episode = Episode(image, action, np.ones(3, np.float32), False, True, np.zeros(3, bool))
    evaluate = EvaluateEpisodes(EvaluationSettings(), CollectEpisodes(CollectSettings(ENV)))
    evaluate.add_values(agent, episode, np.ones(beyond, np.float32), Key(0, 0))
    found = evaluate.metrics._values()
    geometric = [(1 - 0.5 ** (3 - t + beyond)) / 0.5 for t in range(3)]
    assert found["return_to_go"].item() == pytest.approx(np.mean(geometric))
    name = "value_bias_cut" if cut else "value_bias"
    assert found[name].item() == pytest.approx(1 - np.mean(geometric))


def test_which_evaluations_go_on() -> None:
    data = OfflineToOnlineDataModule(ENV, None, offline_steps=0, online_steps=100, eval_every=10, value_every=3)
    settings, schedule = data.evaluation, data.schedule
    goes_on = {step: settings.steps_beyond(schedule, step, True) for step in (0, 10, 20, 30, 40, 60, 90, 100)}
    assert goes_on == {0: 0, 10: 0, 20: 0, 30: 300, 40: 0, 60: 300, 90: 300, 100: 300}
    assert settings.steps_beyond(schedule, 50, False) == 300  # a checkpoint's own evaluation
    for setting in ({"value_steps": -1}, {"value_every": 0}):
        with pytest.raises(SettingError, match=r"data\.value_"):
            OfflineToOnlineDataModule(ENV, None, offline_steps=0, **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*CRITICS, "BC"])
def test_an_agent_without_a_critic_does_not_go_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, asked = make(name), list[int]()
    agent.meet(RunFacts(2, False, Schedule(0, 10, 1, 1)))
    monkeypatch.setattr(Agent, "trained_steps", 10)
    monkeypatch.setattr("moto_pl.callbacks.evaluation.stopping_together", lambda trainer: nullcontext())
    monkeypatch.setattr("moto_pl.callbacks.evaluation.fitting", lambda trainer: True)
    monkeypatch.setattr("moto_pl.callbacks.evaluation.roll_on", lambda *_, beyond: asked.append(beyond) or [])
    evaluate = EvaluateEpisodes(EvaluationSettings(), CollectEpisodes(CollectSettings(ENV)))
    monkeypatch.setattr(CollectEpisodes, "pool", None)
    evaluate.roll(SimpleNamespace(), agent, [3])  # type: ignore[arg-type]
    assert asked == [0 if name == "BC" else 300]
