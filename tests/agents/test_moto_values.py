"""MOTO: what values are made of: what the data earned, the unit of disagreement, cloning alone."""

import copy
import warnings
from typing import Any

import pytest
import torch
from tiny_moto import KEY, batches, make, moved, sequences
from torch import Tensor

from moto_pl.agents import MOTO
from moto_pl.agents.base import RunFacts
from moto_pl.agents.description import check_same_agent
from moto_pl.agents.model_based import TARGET
from moto_pl.agents.settings import BehaviourConfig
from moto_pl.errors import SettingError
from moto_pl.nn.actor_critic import QEnsemble
from moto_pl.ops import Share, Stream, disagreement, integers, uniform
from moto_pl.schedule import Schedule

# What the data earned; cloning alone.


def test_data_value_by_hand() -> None:
    """Along each sequence, from its end: the reward, then (1 - lambda) of the value and lambda of what follows."""
    agent = make(real_return="data", imagine_rows=6)
    assert isinstance(agent.critic, QEnsemble)
    batch = sequences(seed=2)
    starts = agent.draw_starts(batch, KEY)
    key = KEY.fold(TARGET)
    features = starts.rows.features
    member = integers(key, Stream.TARGET, 3, (1,), features.device)
    found = agent.data_value(batch, starts, member, KEY)
    dist = agent.actor.dist(features)
    action = dist.sample(uniform(key, Stream.ACTION, tuple(dist.mean.shape), features.device))
    q = agent.critic.target_value(features, action, member)  # [T, B]
    B, T = batch.reward.shape
    expected = torch.empty(T, B)
    for b in range(B):
        value = expected[T - 1, b] = q[T - 1, b]
        for t in reversed(range(T - 1)):
            goes_on = 1 - float(batch.is_terminal[b, t + 1])
            earned = batch.reward[b, t + 1] + 0.9 * goes_on * value
            value = expected[t, b] = 0.3 * q[t, b] + 0.7 * earned
    torch.testing.assert_close(found, expected[starts.places.t, starts.places.b])
    assert not found.requires_grad


def test_real_return_changes_the_real_loss_alone() -> None:
    imagined, _ = make().losses(batches(), KEY)
    data, _ = make(real_return="data").losses(batches(), KEY)
    assert {name for name in imagined if not torch.equal(imagined[name], data[name])} == {"critic/real"}


def test_without_value_the_actor_clones() -> None:
    agent = make(value_scale=0.0)
    losses, _ = agent.losses(batches(), KEY)
    assert float(losses["actor/value"].detach()) == 0
    losses["actor/value"].backward()
    assert not moved(agent.actor)


def test_the_value_is_heard_as_episodes_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of 2 episodes and 6 steps: 2 episodes from step 4 on, 4 from step 10 on, 6 from 16, 8 from 22."""
    agent, whole = make(value_episodes=(3, 7)), make()
    agent.facts = RunFacts(2, False, Schedule(4, 60, 2, 3, 2))
    steps = {0: 0.0, 3: 0.0, 9: 0.0, 10: 0.25, 15: 0.25, 16: 0.75, 22: 1.0, 63: 1.0, 64: 1.0}
    assert {step: agent.value_share(step) for step in steps} == steps
    expected, _ = whole.losses(batches(), KEY)
    for step, share in steps.items():
        monkeypatch.setattr(MOTO, "global_step", step)
        losses, metrics = agent.losses(batches(), KEY)
        assert float(metrics["actor/value_share"]) == share
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name] * (share if name == "actor/value" else 1.0))
    losses["actor/value"].backward()
    assert moved(agent.actor)


@pytest.mark.parametrize(
    ("episodes", "said"),
    [((20, 30), True), ((19, 30), False), ((20, 20), False), ((21, 21), True), ((0, 0), False)],
)
def test_a_value_that_is_never_heard_is_said(episodes: tuple[int, int], said: bool) -> None:
    """20 episodes are collected, the last two before the last round's steps."""
    agent = make(value_episodes=episodes)
    agent.facts = RunFacts(2, False, Schedule(4, 60, 2, 3, 2))
    assert (max(agent.value_share(step) for step in range(64)) == 0) == said
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        agent.on_fit_start()
    assert any("only clones" in str(warning.message) for warning in heard) == said


def test_the_value_is_heard_at_once() -> None:
    """Where both numbers are one; and from the start without a run, and where nothing is asked for."""
    agent = make(value_episodes=(4, 4))
    assert agent.value_share(0) == make().value_share(0) == 1.0
    agent.facts = RunFacts(2, False, Schedule(4, 60, 2, 3, 2))
    assert [agent.value_share(step) for step in (0, 9, 10, 40)] == [0.0, 0.0, 1.0, 1.0]
    _, metrics = make().losses(batches(), KEY)
    assert "actor/value_share" not in metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_episodes": (8, 4)}, r"behaviour\.value_episodes: found \[8, 4\]"),
        ({"value_episodes": (-1, 4)}, r"behaviour\.value_episodes: found \[-1, 4\]"),
        ({"value_scale": -1.0}, r"behaviour\.value_scale: found -1"),
        ({"real_return": "data", "critic": "v"}, r"behaviour\.real_return: found data with critic: v"),
    ],
)
def test_bad_value_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        BehaviourConfig(**settings)


def test_a_checkpoint_from_before_these_settings_goes_on() -> None:
    ours = make().description()
    before = copy.deepcopy(ours)
    for name in ("real_return", "value_scale", "value_episodes", "disagreement_unit", "greedy"):
        del before["init_args"]["behaviour"][name]
    for name in ("open_loop_steps", "open_loop_rows"):
        del before["init_args"]["world_model"][name]
    check_same_agent(before, ours)
    with pytest.raises(SettingError, match=r"real_return: imagined -> data"):
        check_same_agent(before, make(real_return="data").description())


@pytest.mark.parametrize("kind", ["mean", "logit", "log_prob"])
def test_a_step_into_what_is_known_as_well_as_the_data_costs_alpha(kind: Any) -> None:
    """Counted in its mean along real transitions, whichever the estimator and however large its numbers."""
    raw = make(disagreement=kind)
    agent = make(disagreement=kind, disagreement_unit="data")
    rows = agent.draw_starts(batches()["agent"], KEY).rows
    unit = agent.disagreement_unit(rows, Share())
    assert isinstance(unit, Tensor) and not unit.requires_grad and raw.disagreement_unit(rows, Share()) == 1.0
    found = []
    for t in range(1, len(rows.deter)):
        for b in range(rows.deter.shape[1]):
            prior = agent.world_model.rssm.priors(rows.deter[t : t + 1, b : b + 1])  # [K, 1, 1, P]
            found.append(float(disagreement(agent.world_model.latent, prior, rows.stoch[t : t + 1, b : b + 1], kind)))
    assert float(unit) == pytest.approx(sum(found) / len(found), rel=1e-4)
    _, plain = raw.losses(batches(), KEY)
    _, metrics = agent.losses(batches(), KEY)
    assert torch.equal(metrics["imagined/disagreement"], plain["imagined/disagreement"])
    torch.testing.assert_close(metrics["imagined/penalty"], plain["imagined/penalty"] / unit)


def test_the_unit_of_one_member_is_not_zero() -> None:
    agent = make({"ensemble": 1}, disagreement_unit="data")
    losses, _ = agent.losses(batches(), KEY)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
