"""Ranking errors by disagreement: by hand, and on a model with a planted fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import PlantedModel, episode
from scipy.stats import spearmanr

from moto_pl.analysis.calibration import calibration, find_calibration, predictions, risk_coverage
from moto_pl.ops import Key
from moto_pl.report.statistics import spearman


def test_risk_coverage_by_hand() -> None:
    coverage, risk = risk_coverage(np.array([0.3, 0.1, 0.2]), np.array([9.0, 1.0, 2.0]))
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1]) and risk.tolist() == [1.0, 1.5, 4.0]
    result = calibration(np.array([0.3, 0.1, 0.2]), np.array([9.0, 1.0, 2.0]))
    assert result.area == result.area_oracle == pytest.approx(6.5 / 3) and result.area_random == 4
    assert result.correlation == 1
    worst = calibration(np.array([0.1, 0.3, 0.2]), np.array([9.0, 1.0, 2.0]))
    assert worst.area == pytest.approx((9 + 5.5 + 4) / 3) and worst.correlation == -1


def test_spearman_is_scipys_and_its_interval_draws_groups() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 6, 60).astype(float)
    right = left + rng.normal(0, 2, 60)
    value, interval = spearman(left, right)
    assert value == pytest.approx(spearmanr(left, right).statistic)
    assert interval.low < value < interval.high and interval.high - interval.low < 0.5
    # The same values six times over, known to be six copies, say no more than one copy does.
    copies = np.repeat(np.arange(10), 6)
    wide = spearman(np.repeat(left[:10], 6), np.repeat(right[:10], 6), copies).interval
    narrow = spearman(np.repeat(left[:10], 6), np.repeat(right[:10], 6)).interval
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)).value)


@pytest.mark.parametrize("horizon", [1, 4])
def test_a_planted_fault_is_found(horizon: int) -> None:
    model = PlantedModel()
    episodes = [episode(bool(seed % 2), seed) for seed in range(8)]
    found = predictions(model, episodes, horizon, ["mean"], Key(0, 0))
    # The error is of the frame that lies a horizon after the start.
    expected = []
    for data in episodes:
        level = data.image[horizon : len(data.action), 0, 0, 0].astype(float) / 255 - 0.5
        expected.append(np.where(level > 0, (level + 0.5) ** 2, 0) * 3 * 64 * 64)
    np.testing.assert_allclose(found.error, np.concatenate(expected), rtol=1e-3, atol=1e-3)
    result = calibration(found.disagreement["mean"], found.error, found.episode)
    assert result.correlation > 0.75 and result.interval.low > 0.4
    assert result.area < 0.6 * result.area_random and result.area_oracle <= result.area
    rng = np.random.default_rng(0)
    blind = calibration(rng.permutation(found.disagreement["mean"]), found.error, found.episode)
    assert abs(blind.correlation) < 0.35 and blind.area > 0.7 * blind.area_random


def test_controls_and_figure() -> None:
    torch.manual_seed(0)
    model = PlantedModel()
    finding = find_calibration(model, [episode(True, 1), episode(False, 2)], "planted data", (1, 4))
    assert len(finding.rows) == 2 * 3 * 2  # horizons, estimators of categorical latents, with and without control
    assert {row["estimator"] for row in finding.rows} == {"mean", "logit", "log_prob"}
    assert "2 episodes of planted data" in finding.caption and finding.summary["horizon"] == 4
    assert len(finding.figure.axes) == 6
