"""Intervals against published tables and closed forms."""

import numpy as np
import pytest

from moto_pl.errors import SettingError
from moto_pl.report.statistics import (
    bootstrap_interval,
    interquartile_mean,
    running_mean,
    spearman,
    wilson_interval,
)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3 (score).
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_the_score_equation() -> None:
    """Its ends p satisfy |k/n - p| = z sqrt(p (1 - p) / n)."""
    z = 1.959963984540054  # 95 %
    for end in wilson_interval(17, 20):
        assert abs(17 / 20 - end) == pytest.approx(z * (end * (1 - end) / 20) ** 0.5, rel=1e-9)


def test_wilson_is_symmetric_and_exact_at_the_ends() -> None:
    low, high = wilson_interval(3, 20)
    mirrored = wilson_interval(17, 20)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)
    assert wilson_interval(0, 7).low == 0.0
    assert wilson_interval(7, 7).high == 1.0


@pytest.mark.parametrize(
    ("successes", "trials", "setting"), [(0, 0, "trials"), (21, 20, "successes"), (-1, 20, "successes")]
)
def test_wilson_refuses(successes: int, trials: int, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        wilson_interval(successes, trials)


def test_bootstrap_of_coins_is_binomial() -> None:
    """Resampling ten 0s and ten 1s draws Binomial(20, 1/2), whose 2.5 % and 97.5 % quantiles are 6 and 14."""
    assert bootstrap_interval([0.0] * 10 + [1.0] * 10) == pytest.approx((0.3, 0.7))


def test_bootstrap_of_many_normals_matches_the_standard_error() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 2000)
    half = 1.959964 * values.std() / 2000**0.5
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_deterministic_and_takes_other_statistics() -> None:
    values = [1.0, 2.0, 3.0, 50.0]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)
    values = [0.0] * 30 + [1e6]
    assert bootstrap_interval(values, statistic=np.median) == (0.0, 0.0)
    assert bootstrap_interval(values).high > 1e4


def test_bootstrap_in_chunks_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small memory bound leaves the number of resamples, and so the interval, what it was."""
    monkeypatch.setattr("moto_pl.report.statistics._DRAWS", 70)
    assert bootstrap_interval([0.0] * 10 + [1.0] * 10, resamples=5000) == pytest.approx((0.3, 0.7))


def test_bootstrap_draws_what_its_seed_says() -> None:
    """Numbers of a published table must not move with a library: recomputed here from the generator alone."""
    values, rng = np.array([0.2, 0.9, 0.4, 0.7]), np.random.default_rng(5)
    drawn = values[rng.integers(4, size=(10_000, 4))].mean(axis=1)
    assert bootstrap_interval(values, seed=5) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-12)


def test_bootstrap_of_one_value_has_no_width() -> None:
    assert bootstrap_interval([3.0]) == (3.0, 3.0)


def test_interquartile_mean_counts_the_cut_values_in_part() -> None:
    assert interquartile_mean([1.0, 2.0, 3.0, 4.0]) == 2.5
    assert interquartile_mean([[0.8, 1.0, 0.9], [0.0, 0.0, 3.0]]) == pytest.approx([0.9, 0.5])
    low, high = bootstrap_interval([0.0, 0.0, 1.0, 100.0], statistic=interquartile_mean)
    assert low == 0.0 and 1.0 < high <= 100.0
    with pytest.raises(SettingError, match="values"):
        interquartile_mean(np.ones((2, 3)), axis=0)


# Rank correlation.


def test_spearman_by_hand_and_its_interval() -> None:
    left, right = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 9.0])
    found = spearman(left, right)  # 1 - 6 * 4 / (5 * 24)
    assert found.value == pytest.approx(0.8)
    assert -1 <= found.interval.low < 0.8 < found.interval.high <= 1
    assert spearman(left, right) == found


def test_spearman_draws_whole_groups() -> None:
    """Values of one group go together: single draws would hide how few groups there are."""
    group = np.repeat(np.arange(4), 50)
    left = np.tile(np.arange(50.0), 4)
    right = left * np.repeat([1.0, 1.0, 1.0, -1.0], 50)
    grouped, single = spearman(left, right, group).interval, spearman(left, right).interval
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


@pytest.mark.filterwarnings("error")
def test_spearman_without_an_order_is_unknown() -> None:
    found = spearman(np.ones(5), np.arange(5.0))
    assert np.isnan([found.value, *found.interval]).all()
    # A sample without an order, here one that draws one group alone, does not make the interval unknown.
    some = spearman(np.array([1.0, 1.0, 2.0]), np.array([3.0, 3.0, 5.0]))
    assert some.value == pytest.approx(1.0) and some.interval == pytest.approx((1.0, 1.0))
    assert np.isnan(spearman(np.ones(1), np.ones(1)).value)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_bootstrap_refuses(values: list) -> None:
    with pytest.raises(SettingError, match="values"):
        bootstrap_interval(values)


def test_running_mean() -> None:
    assert running_mean([1, 3, 5, 7], 2).tolist() == [1, 2, 4, 6]
    assert running_mean([1, 3, 5, 7], 10).tolist() == [1, 2, 3, 4]
    assert running_mean([], 3).size == 0
    with pytest.raises(SettingError, match="window"):
        running_mean([1.0], 0)
