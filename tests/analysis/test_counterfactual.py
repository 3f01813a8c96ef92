"""Counterfactuals: the simulator is where the episode was, actions are what they are called, scores mean something."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from moto_pl.agents import MOTO
from moto_pl.agents.settings import BehaviourConfig
from moto_pl.analysis.counterfactual import (
    KINDS,
    Branch,
    Simulator,
    auroc,
    branches,
    estimator_auroc,
    find_counterfactual,
    imagine,
    taken,
)
from moto_pl.analysis.episodes import RunEnvironment
from moto_pl.datasets.recording import run_scripted
from moto_pl.envs import make
from moto_pl.envs.observation import ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout.pool import EnvPool

ENV, OPTIONS = "moto_pl/Reach-v0", {"episode_steps": 20}
CONTEXT, STEPS = 4, 10


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    env = make(ENV, **OPTIONS)
    return [run_scripted(env, seed, noise=0.3) for seed in range(3)]


@pytest.fixture(scope="module")
def agent() -> MOTO:
    sizes: dict[str, Any] = {"encoder_channels": (2, 2, 2, 2), "decoder_channels": (2, 2, 2), "mlp_layers": 0}
    made = MOTO(
        WorldModelConfig(deter=8, hidden=8, stoch=2, classes=3, ensemble=3, **sizes),
        BehaviourConfig(actor_layers=1, actor_units=8, critic_layers=1, critic_units=8),
    )
    torch.manual_seed(0)
    made.action_size = 2
    made.build(2)
    return made.eval()


def test_the_simulator_goes_back_to_the_moment(episodes: list[Episode]) -> None:
    simulator, episode = Simulator(ENV, OPTIONS), episodes[1]
    for _ in range(2):  # and again, after whatever was done in between
        frame = simulator.restore(episode, CONTEXT)
        assert np.array_equal(frame.image, episode.image[CONTEXT])
        rewards = simulator.roll(lambda i, _: episode.action[CONTEXT + i], frame, STEPS)
        assert np.array_equal(rewards, episode.reward[CONTEXT : CONTEXT + STEPS]) and rewards.any()
    # A time limit is no end: standing still in success goes on to earn.
    frame = simulator.restore(episode, episode.length)
    assert episode.success[-1]
    assert simulator.roll(lambda i, _: np.zeros(2, np.float32), frame, 30).tolist() == [1.0] * 30


def test_others_frames_are_resized_as_in_the_run() -> None:
    """Their episodes hold frames of the run's size, whatever the environment draws."""
    other, options = "misbehaving:moto_pl_test/Cameras-v0", {"what": "wide", "episode_steps": 8}
    wanted = ObservationConfig(("odd", "image"))
    with EnvPool(other, options, 0, wanted=wanted, image_size=64) as pool:
        shown, action = [pool.reset([3])[0]], np.float32([[0.5, -1.0]])
        shown += [pool.step(action)[0][0] for _ in range(4)]
    rewards, flags = np.zeros(4, np.float32), np.zeros(4, bool)
    episode = Episode(np.stack(shown), action.repeat(4, 0), rewards, False, True, flags, info={"seed": 3})
    simulator = Simulator(other, options, wanted, image_size=64)
    assert np.array_equal(simulator.restore(episode, 2).image, shown[2]) and shown[2].shape == (64, 64, 6)
    images: list[np.ndarray] = []
    simulator.roll(lambda i, now: images.append(now.image) or episode.action[2 + i], simulator.restore(episode, 2), 2)
    assert np.array_equal(images, shown[2:4])
    simulator.close()


def test_episodes_of_another_environment_are_refused(episodes: list[Episode]) -> None:
    elsewhere = Simulator(ENV, {**OPTIONS, "hand_radius": 0.9})
    with pytest.raises(SettingError, match="does not repeat"):
        elsewhere.restore(episodes[0], CONTEXT)
    with pytest.raises(SettingError, match="without a seed"):
        Simulator(ENV, OPTIONS).restore(dataclasses.replace(episodes[0], info={}), CONTEXT)


def test_actions_are_what_they_are_called(episodes: list[Episode]) -> None:
    recorded = episodes[0].action[:6]
    assert taken("recorded", recorded, 0) is recorded and taken("policy", recorded, 0) is None
    zero, uniform, turned = (taken(kind, recorded, 0) for kind in ("zero", "uniform", "reversed"))
    assert zero is not None and not zero.any()
    assert turned is not None and np.array_equal(turned, -recorded)
    assert uniform is not None and uniform.shape == recorded.shape and np.abs(uniform).max() <= 1
    assert np.array_equal(uniform, taken("uniform", recorded, 0))  # type: ignore[arg-type]
    assert not np.array_equal(uniform, taken("uniform", recorded, 1))  # type: ignore[arg-type]


def test_branches_leave_in_the_model_and_in_the_simulator(agent: MOTO, episodes: list[Episode]) -> None:
    simulator, episode = Simulator(ENV, OPTIONS), episodes[1]
    found = branches(agent, episode, simulator, CONTEXT, STEPS, ["mean", "log_prob"], 3, 1)
    assert tuple(found) == KINDS
    for branch in found.values():
        assert branch.predicted.shape == branch.true.shape == (STEPS,)
        assert all(u.shape == (STEPS,) and (u >= 0).all() for u in branch.disagreement.values())
    assert np.array_equal(found["recorded"].true, episode.reward[CONTEXT : CONTEXT + STEPS])
    assert not found["zero"].true.any() and not found["reversed"].true.any()
    assert not np.array_equal(found["zero"].predicted, found["uniform"].predicted)  # actions reach the model


def test_the_policy_in_the_simulator_is_the_one_that_acts(agent: MOTO, episodes: list[Episode]) -> None:
    """Its filter has seen the episode: what it does at once is what it does after the same frames and actions."""
    told = []
    step = agent.world_model.step

    def listening(state: Any, action: torch.Tensor, *rest: Any) -> Any:
        told.append(action.clone())
        return step(state, action, *rest)

    agent.world_model.step = listening  # type: ignore[method-assign]
    try:
        branches(agent, episodes[0], Simulator(ENV, OPTIONS), CONTEXT, 3, ["mean"], 2, 0)
    finally:
        agent.world_model.step = step  # type: ignore[method-assign]
    assert len(told) == CONTEXT + 3 and not told[0].any()
    np.testing.assert_array_equal(torch.cat(told[1 : CONTEXT + 1]).numpy(), episodes[0].action[:CONTEXT])


def test_imagined_rewards_are_those_of_the_actions(agent: MOTO, episodes: list[Episode]) -> None:
    deter, stoch = agent.world_model.rssm.initial(4)
    start, actions = States(deter, stoch), episodes[0].action[:5]
    reward, spread = imagine(agent, start, actions, 5, ["mean"], Key(0, 1))
    rolled = agent.world_model.roll(start, lambda i, _: torch.from_numpy(actions)[i].expand(4, 2), 5, Key(0, 1))
    expected = agent.world_model.predict_reward(rolled.states.map(lambda x: x[1:])).mean(1)
    np.testing.assert_allclose(reward, expected.detach().numpy(), rtol=1e-5)
    assert spread["mean"].shape == (5,)


def test_auroc_is_the_chance_of_the_right_order() -> None:
    rng = np.random.default_rng(0)
    wrong, score = rng.random(200) < 0.3, np.round(rng.random(200), 1)  # with ties
    expected = mannwhitneyu(score[wrong], score[~wrong]).statistic / (wrong.sum() * (~wrong).sum())
    assert auroc(score, wrong) == pytest.approx(expected)
    assert auroc(np.arange(4.0), np.array([False, False, True, True])) == 1.0
    assert np.isnan(auroc(score, np.ones(200, bool)))


@pytest.mark.parametrize(("knows", "value"), [(True, 1.0), (False, 0.5)])
def test_an_estimator_that_knows_is_told_from_one_that_does_not(knows: bool, value: float) -> None:
    true = np.zeros(6)

    def branch(wrong: bool) -> Branch:
        return Branch(true + wrong, true, {"mean": np.full(6, 1.0 if wrong and knows else 0.1)})

    found = [{"recorded": branch(False), "zero": branch(True)} for _ in range(4)]
    result, interval = estimator_auroc(found, "mean", 0.5, resamples=20)
    assert result == value and interval.low == interval.high == value


def test_a_finding(agent: MOTO, episodes: list[Episode]) -> None:
    env = RunEnvironment(ENV, OPTIONS)
    finding = find_counterfactual(agent, episodes, "three episodes", env, CONTEXT, STEPS, samples=2)
    assert len(finding.rows) == 3 * len(KINDS) * STEPS
    assert {"error_zero", "auroc_mean", "auroc_logit", "auroc_log_prob"} <= finding.summary.keys()
    zero = [row for row in finding.rows if row["actions"] == "zero" and row["step"] > STEPS - 5]
    expected = np.mean([abs(row["predicted"] - row["true"]) for row in zero])
    assert finding.summary["error_zero"] == pytest.approx(expected)
    assert f"off by {expected:.2f}" in finding.caption
