"""Eq. 12 against a slow direct form, and the bound by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from planted import PlantedModel, episode

from moto_pl.analysis.bound import bound, expert_uncertainty, fixed_actions
from moto_pl.analysis.episodes import episode_batch
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.ops import Key, transition
from moto_pl.ops.imagine import priors
from moto_pl.ops.latent import disagreement, mode


@pytest.mark.parametrize("horizon", [1, 4, 11])
@pytest.mark.parametrize("chunk", [3, 128])
def test_expert_uncertainty_is_equation_12(horizon: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = WorldModel(
        WorldModelConfig(
            deter=6, hidden=5, stoch=3, classes=4, ensemble=3, mlp_layers=0,
            encoder_channels=(2, 2, 2, 2), decoder_channels=(2, 2, 2),
        ),
        2,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.rssm.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    # The likeliest latents of the first member: what is drawn would depend on how starts are batched.
    monkeypatch.setattr("moto_pl.nn.world_model.sample", lambda spec, params, noise: mode(spec, params))
    monkeypatch.setattr("moto_pl.nn.world_model.integers", lambda *a: torch.zeros(a[3], dtype=torch.long))
    data = episode(True)
    steps = data.length
    found = expert_uncertainty(model, data, horizon, "mean", Key(1, 2), chunk)

    with torch.no_grad():
        states = model.observe(episode_batch(data, torch.device("cpu")), Key(1, 2)).states
        action = torch.from_numpy(data.action)
        total, terms = 0.0, 0
        for t in range(steps - horizon):
            deter, stoch = states.deter[t], states.stoch[t]  # [1, ...]
            for h in range(horizon):
                deter = transition(deter, stoch, action[t + h][None], model.rssm.cell())
                prior = priors(deter, model.rssm.prior())
                stoch = mode(model.latent, prior[0])
                total += float(disagreement(model.latent, prior, stoch, "mean"))
                terms += 1
    assert terms == horizon * (steps - horizon)
    assert found == pytest.approx(total / terms, rel=1e-4)


def test_starts_and_actions() -> None:
    states = States(torch.arange(6.0)[:, None], torch.zeros(6, 1))
    start, action = fixed_actions(states, torch.arange(5.0)[:, None] * 10, 2)
    assert start.deter[:, 0].tolist() == [0, 1, 2]
    assert action[..., 0].tolist() == [[0, 10, 20], [10, 20, 30]]
    for wrong in (0, 5):
        with pytest.raises(SettingError, match="--horizon"):
            fixed_actions(states, torch.zeros(5, 1), wrong)


def test_episode_as_a_batch() -> None:
    data = episode(False)
    batch = episode_batch(data, torch.device("cpu"))
    assert batch.image.shape == (1, 13, 3, 64, 64) and batch.action[0, 0].tolist() == [0, 0]
    np.testing.assert_array_equal(batch.action[0, 1:].numpy(), data.action)
    assert batch.is_first[0].tolist() == [True] + [False] * 12 and not batch.is_terminal.any()


def test_bound_by_hand() -> None:
    result = bound([0.5, 0.25, 0.1], [4.0, 3.0, -1.0])
    assert result.alpha == pytest.approx(3 / (2 * 0.25))
    assert (2 * result.alpha * result.uncertainty >= result.gap - 1e-12).all()
    assert result.correlation == pytest.approx(1.0)
    assert bound([0.5, 0.2], [-1.0, 0.0]).alpha == 0
    assert math.isnan(bound([0.5], [1.0]).correlation)
    with pytest.raises(SettingError, match="positive"):
        bound([0.0, 0.1], [1.0, 1.0])


def test_a_model_that_is_wrong_about_bright_frames_is_uncertain_of_bright_experts() -> None:
    model = PlantedModel()
    dark = [expert_uncertainty(model, episode(False, seed), 5, "mean", Key(0, 0)) for seed in range(5)]
    bright = [expert_uncertainty(model, episode(True, seed), 5, "mean", Key(0, 0)) for seed in range(5)]
    assert max(dark) < 0.01 < 0.1 < min(bright)
    # Where the gap is where the model is wrong, one alpha holds and ranks agree; where it is elsewhere, it is huge.
    honest = bound([*dark, *bright], [0.0] * 5 + [2.0] * 5)
    assert honest.alpha < 10 and honest.correlation > 0.8
    misled = bound([*dark, *bright], [2.0] * 5 + [0.0] * 5)
    assert misled.alpha > 100 and misled.correlation < -0.8
