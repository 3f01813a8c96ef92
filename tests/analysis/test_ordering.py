"""Orderings: the policy is left as it is said to be, and what the model says is compared within a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from moto_pl.agents import MOTO
from moto_pl.agents.settings import BehaviourConfig
from moto_pl.analysis.counterfactual import Simulator, filtered
from moto_pl.analysis.episodes import RunEnvironment
from moto_pl.analysis.ordering import Moment, Tilt, agreement, chosen, find_ordering, imagined_scores, moment
from moto_pl.datasets.recording import run_scripted
from moto_pl.envs import make
from moto_pl.nn import WorldModelConfig
from moto_pl.ops import Key
from moto_pl.replay.episode import Episode
from moto_pl.rollout.policy import Policy

ENV, OPTIONS, STEPS = "moto_pl/Reach-v0", {"episode_steps": 20}, 9
TILT = Tilt(0.5, 3)


@pytest.fixture(scope="module")
def agent() -> MOTO:
    sizes: dict[str, Any] = {"encoder_channels": (2, 2, 2, 2), "decoder_channels": (2, 2, 2), "mlp_layers": 0}
    made = MOTO(
        WorldModelConfig(deter=8, hidden=8, stoch=2, classes=3, ensemble=3, **sizes),
        BehaviourConfig(actor_layers=1, actor_units=8, critic_layers=1, critic_units=8, horizon=4),
    )
    torch.manual_seed(0)
    made.action_size = 2
    made.build(2)
    return made.eval()


@pytest.fixture(scope="module")
def own() -> list[Episode]:
    """A script's episodes, which do for the policy's: its filter is brought up to a moment whoever acted."""
    env = make(ENV, **OPTIONS)
    return [run_scripted(env, seed, noise=0.3) for seed in range(3)]


def test_a_tilt_is_held_and_then_let_go() -> None:
    drawn = TILT.draw(400, 2, 1)
    assert not drawn[0].any() and drawn.dtype == np.float32 and abs(drawn[1:].std() - 0.5) < 0.03
    assert np.array_equal(drawn, TILT.draw(400, 2, 1)) and not np.array_equal(drawn, TILT.draw(400, 2, 2))
    action, added = np.float32([0.2, 0.9]), np.float32([0.3, 0.3])
    assert TILT.alter(added, 2, action).tolist() == pytest.approx([0.5, 1.0])
    assert TILT.alter(added, 3, action) is action


def test_the_simulator_gets_the_policy_and_what_is_added(
    agent: MOTO, own: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    act = Policy.act_seen

    def listening(self: Policy, seen: Any) -> torch.Tensor:
        asked.append((action := act(self, seen)).numpy()[0])
        return action

    monkeypatch.setattr(Policy, "act_seen", listening)
    simulator = Simulator(ENV, OPTIONS)
    done: list[np.ndarray] = []
    step = simulator.env.step
    monkeypatch.setattr(simulator.env, "step", lambda action: done.append(np.array(action)) or step(action))
    found = moment(agent, own[0], simulator, (0, 5), 2, TILT, STEPS, 2, "mean")
    # Each of the two: five recorded actions, whose frames the filter sees, then the policy's own.
    added = TILT.draw(2, 2, 5)
    for variant in range(2):
        said, did = (log[variant * (5 + STEPS) : (variant + 1) * (5 + STEPS)] for log in (asked, done))
        np.testing.assert_array_equal(did[:5], own[0].action[:5])
        np.testing.assert_allclose(did[5:8], np.clip(np.stack(said[5:8]) + added[variant], -1, 1), rtol=1e-6)
        np.testing.assert_array_equal(did[8:], said[8:])
    assert found.true.shape == found.earned.shape == (2,) and (found.step, found.episode) == (5, 0)


def test_what_is_earned_is_the_simulators(own: list[Episode], monkeypatch: pytest.MonkeyPatch, agent: MOTO) -> None:
    """Where the policy is the recording itself, its variant earns the recording's rewards."""
    monkeypatch.setattr(
        "moto_pl.analysis.ordering.policy_from",
        lambda agent, episode, context, *_: lambda i, now: episode.action[context + i],
    )
    found = moment(agent, own[1], Simulator(ENV, OPTIONS), (1, 6), 2, TILT, STEPS, 2, "mean")
    rewards = own[1].reward[6 : 6 + STEPS].astype(float)
    assert rewards.any() and found.earned[0] == rewards.sum()
    assert found.true[0] == pytest.approx(0.99 ** np.arange(STEPS) @ rewards)


def test_the_models_score_is_of_the_tilted_policy(agent: MOTO, own: list[Episode]) -> None:
    start, added = filtered(agent, own[0], 4, 3, Key(0, 0)), np.float32([0.4, -0.4])
    done: list[torch.Tensor] = []
    roll = agent.world_model.roll

    def listening(start: Any, act: Any, steps: int, key: Key) -> Any:
        rolled = roll(start, act, steps, key)
        done.extend((rolled.action, rolled.states.map(lambda x: x[1:])))
        return rolled

    agent.world_model.roll = listening  # type: ignore[method-assign]
    try:
        said = imagined_scores(agent, start, added, TILT, STEPS, "mean", Key(0, 1))
        plain = imagined_scores(agent, start, 0 * added, TILT, STEPS, "mean", Key(0, 1))
    finally:
        agent.world_model.roll = roll  # type: ignore[method-assign]
    action, after = done[0], done[1]
    assert action.shape == (STEPS, 3, 2) and len(after.deter) == STEPS
    np.testing.assert_allclose(action[0].numpy(), (done[2][0].numpy() + added).clip(-1, 1), atol=1e-6)
    reward = agent.world_model.predict_reward(after).mean(1).detach().numpy()
    assert said["rewards"] == pytest.approx(0.99 ** np.arange(STEPS) @ reward, rel=1e-5)
    near = TILT.hold + 4  # and the horizon
    features = after.map(lambda x: x[near - 1]).features
    with torch.no_grad():
        value = agent.critic.actor_value(features, agent.latent_action(features, "mode", Key(0, 2)), "mean").mean()
    expected = 0.99 ** np.arange(near) @ reward[:near] + 0.99**near * value.item()
    assert said["rewards and value"] == pytest.approx(expected, rel=1e-5)
    assert said["disagreement"] <= 0 and said != plain


def test_agreement_is_within_moments() -> None:
    """A score that knows which moments are good, and not what to do there, knows nothing."""

    def one(episode: int, level: float, knows: bool) -> Moment:
        true = np.array([0.0, 1.0, 2.0]) + level
        return Moment(episode, 5, true, true, {"a": level + (true if knows else -true) * 1e-3})

    right = [one(e, 10.0 * e, True) for e in range(4)]
    wrong = [one(e, 10.0 * e, False) for e in range(4)]
    assert agreement(right, "a")[0] == 1.0 and agreement(wrong, "a")[0] == -1.0
    rho, interval, count = agreement([*right[:2], *wrong[2:]], "a")
    assert rho == 0 and count == 4 and interval.low < 0 < interval.high
    assert chosen(right, "a") == 17.0 and chosen(wrong, "a") == 15.0
    flat = Moment(0, 5, np.zeros(3), np.zeros(3), {"a": np.arange(3.0)})
    assert agreement([flat, *right], "a")[2] == 4 and np.isnan(agreement([flat], "a")[0])
    blind = right[0]._replace(scores={"a": np.zeros(3)})
    assert agreement([blind], "a")[0] == 0


def test_a_finding(agent: MOTO, own: list[Episode]) -> None:
    finding = find_ordering(agent, own, RunEnvironment(ENV, OPTIONS), (2, 6), 3, TILT, STEPS, 2)
    assert len(finding.rows) == 3 * 2 * 3 and {row["step"] for row in finding.rows} == {2, 6}
    own_return = np.mean([row["earned"] for row in finding.rows if row["variant"] == 0])
    assert finding.summary["own"] == pytest.approx(own_return)
    assert {"correlation_rewards", "correlation_rewards and value", "chosen_disagreement"} <= finding.summary.keys()
    assert finding.summary["best"] >= max(finding.summary["own"], finding.summary["chosen_rewards"])
