"""Eq. 12 against a slow direct form, and the bound by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planted import PlantedModel, episode

from moto_pl.analysis.bound import Moment, bound, bound_finding, expert_uncertainty, find_bound, fixed_actions
from moto_pl.errors import SettingError
from moto_pl.nn import States, WorldModel, WorldModelConfig
from moto_pl.ops import Key, transition
from moto_pl.ops.imagine import priors
from moto_pl.ops.latent import disagreement, mode
from moto_pl.replay.sampler import episode_batch


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


# Both sides fall during pre-training; online, the gap grows where the uncertainty falls.
MOMENTS = [
    Moment(10, 0, False, 0.8, 90.0),
    Moment(20, 0, False, 0.6, 80.0),
    Moment(30, 0, False, 0.5, 70.0),
    Moment(40, 0, True, 0.40, 40.0),
    Moment(50, 4, True, 0.30, 42.0),
    Moment(60, 8, True, 0.20, 44.0),
]


def test_the_figure_is_of_the_online_phase() -> None:
    finding = bound_finding(MOMENTS, 100.0, "somehow", "a-run", 10.0)
    said = finding.summary
    assert said["alpha"] == pytest.approx(44 / (2 * 0.20)) and said["moments"] == 3 and said["moments_all"] == 6
    assert said["spearman"] == pytest.approx(-1) and said["spearman_all"] > 0.5
    assert [row["phase"] for row in finding.rows] == ["offline"] * 3 + ["online"] * 3
    assert [row["normalized_uncertainty"] for row in finding.rows] == pytest.approx([2, 1.5, 1.25, 1, 0.75, 0.5])
    assert [row["return"] for row in finding.rows] == pytest.approx([10, 20, 30, 60, 58, 56])
    by_marker = {line.get_marker(): line for line in finding.figure.axes[1].lines}
    np.testing.assert_allclose(by_marker["o"].get_xdata(), [1, 0.75, 0.5])
    np.testing.assert_allclose(by_marker["o"].get_ydata(), [40, 42, 44])
    np.testing.assert_allclose(by_marker["x"].get_xdata(), [2, 1.5, 1.25])
    # The dashed line is the bound at the least alpha: it touches the online moment that fixes it, from above.
    line = by_marker["None"]
    at = np.interp([1, 0.75, 0.5], line.get_xdata(), line.get_ydata())
    assert (at >= np.array([40, 42, 44]) - 1e-9).all() and at[2] == pytest.approx(44)


def test_the_caption_says_alpha_and_both_correlations_whatever_they_are() -> None:
    caption = bound_finding(MOMENTS, 100.0, "somehow", "a-run", 10.0).caption
    assert "bounds the gap: 110 over the online phase (dashed), 110 over all moments" in caption
    assert "over the online phase -1.00 [" in caption and "(n = 3)" in caption and "(n = 6)" in caption
    # 2 * 10 * eps is 8, 6, 4: far below gaps of 40 and more.
    assert "10, the left side is 4 to 8, where the gap is 40 to 44: the bound holds at 0 of 3 moments" in caption
    assert "At the agent's own alpha" not in bound_finding(MOMENTS, 100.0, "somehow", "a-run").caption
    steeper = [Moment(1, 0, False, 0.001, 90.0), *MOMENTS]
    assert "110 over the online phase (dashed), 45,000 over all moments" in bound_finding(steeper, 1, "", "").caption
    one = bound_finding(MOMENTS[:4], 100.0, "somehow", "a-run")
    assert "over the online phase none (n = 1: one side does not vary)" in one.caption
    assert math.isnan(one.summary["spearman"])


def a_run(root: Path, phases: dict[int, str]) -> Path:
    """Evaluations and (empty) snapshots, without training."""
    (root / "snapshots").mkdir(parents=True)
    with open(root / "evaluations.jsonl", "w") as file:
        for step, phase in phases.items():
            record = {"stage": "eval", "step": step, "phase": phase, "online_episodes": 0, "length": [12]}
            file.write(json.dumps(record | {"return": [float(step)], "success": [False]}) + "\n")
            (root / f"snapshots/step_{step:07d}.ckpt").touch()
    return root


def test_the_end_of_pretraining_is_the_first_online_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run", {5: "offline", 10: "pretrained", 15: "online", 20: "final"})
    # The model of step n is uncertain about the expert by n.
    monkeypatch.setattr("moto_pl.analysis.bound.load_agent", lambda path: int(path.stem.split("_")[1]))
    monkeypatch.setattr("moto_pl.analysis.bound.model_based", lambda step: SimpleNamespace(world_model=step))
    monkeypatch.setattr("moto_pl.analysis.bound.expert_uncertainty", lambda model, *args: float(model))
    rows = find_bound(run, [episode(True, reward=2.0)], "the expert", 5).rows
    assert [(row["step"], row["phase"]) for row in rows] == [
        (5, "offline"), (10, "online"), (15, "online"), (20, "online"),
    ]  # fmt: skip
    assert [row["gap"] for row in rows] == [12 * 2.0 - step for step in (5, 10, 15, 20)]
    assert [row["normalized_uncertainty"] for row in rows] == [0.25, 0.5, 0.75, 1.0]
    early = a_run(tmp_path / "early", {0: "untrained", 5: "offline"})
    with pytest.raises(SettingError, match="without a snapshot of the online phase"):
        find_bound(early, [episode(True)], "the expert", 5)
