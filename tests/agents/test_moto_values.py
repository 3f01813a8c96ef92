"""MOTO: what values are made of: what the data earned, the unit of disagreement, cloning alone."""

import copy
from typing import Any

import pytest
import torch
from tiny_moto import KEY, batches, make, moved, sequences
from torch import Tensor

from moto_pl.agents.description import check_same_agent
from moto_pl.agents.model_based import TARGET
from moto_pl.agents.settings import BehaviourConfig
from moto_pl.errors import SettingError
from moto_pl.nn.actor_critic import QEnsemble
from moto_pl.ops import Share, Stream, disagreement, integers, uniform

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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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
    for name in ("real_return", "value_scale", "disagreement_unit"):
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
