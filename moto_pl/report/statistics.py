"""Intervals for the few episodes that a policy is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from moto_pl.errors import SettingError

_DRAWS = 1_000_000  # numbers drawn at a time, to bound memory


class Interval(NamedTuple):
    """A closed interval."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate.

    It stays within [0, 1] and says something at 0 of n and n of n, where the textbook interval has no width.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.
        confidence: in (0, 1).

    Raises:
        SettingError: where an argument is out of its range.
    """
    _check_confidence(confidence)
    if trials < 1:
        raise SettingError("trials", trials, "Give at least 1.")
    if not 0 <= successes <= trials:
        raise SettingError("successes", successes, f"Give 0 to {trials}.")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / trials
    centre = rate + z2 / (2 * trials)
    half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2)))
    scale = 1 + z2 / trials
    # At the ends the bound is exact; rounding would leave it a hair outside.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return Interval(low, high)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic; the same ``seed`` gives the same interval.

    Args:
        values: finite numbers [n], n >= 1. Of a single one the interval has no width: it says nothing.
        confidence: in (0, 1).
        statistic: takes [m, n] and ``axis=1``, gives [m]: ``np.mean``, ``np.median``.
        resamples: samples drawn with replacement.
        seed: of the draws.

    Raises:
        SettingError: where an argument is out of its range.
    """
    _check_confidence(confidence)
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise SettingError("values", f"{array.shape} numbers", "Give a list of at least one finite number.")
    if resamples < 1:
        raise SettingError("resamples", resamples, "Give at least 1.")
    rng = np.random.default_rng(seed)
    chunk = max(1, _DRAWS // array.size)
    parts = []
    for first in range(0, resamples, chunk):
        drawn = rng.integers(array.size, size=(min(chunk, resamples - first), array.size))
        parts.append(statistic(array[drawn], axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(parts), (tail, 1 - tail))
    return Interval(float(low), float(high))


def interquartile_mean(values: np.ndarray, axis: int = 1) -> np.ndarray:
    """The mean of the middle half; a value that the quartile cuts through counts in part.

    Args:
        values: [m, n].
        axis: 1.

    Returns:
        [m].
    """
    if values.ndim != 2 or axis != 1 or not values.shape[1]:
        raise SettingError("values", f"{values.shape} along axis {axis}", "Give [m, n] along axis 1.")
    ordered, count = np.sort(values, axis=1), values.shape[1]
    edges = np.arange(count + 1)
    # How much of each value lies in the middle half [n / 4, 3n / 4] of the order.
    inside = np.clip(np.minimum(edges[1:], 0.75 * count) - np.maximum(edges[:-1], 0.25 * count), 0, None)
    return np.asarray(ordered @ (inside / inside.sum()))


class Correlation(NamedTuple):
    """Spearman's rank correlation and its interval."""

    value: float
    interval: Interval


def spearman(
    left: np.ndarray,
    right: np.ndarray,
    group: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation with a percentile bootstrap interval.

    Args:
        left: [n].
        right: [n].
        group: [n], which values were found together (an episode's); whole groups are drawn. None draws single values.
        confidence: in (0, 1).
        resamples: samples drawn with replacement.
        seed: of the draws.

    Returns:
        Both; nan where a side is constant, so that there is no order to speak of.
    """
    _check_confidence(confidence)
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise SettingError("left", f"{left.shape} and {right.shape} numbers", "Give two lists of the same length.")
    names = np.arange(len(left)) if group is None else np.asarray(group)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(members) == 1:  # one group says nothing about others: its own values are drawn
        members = [np.array([i]) for i in range(len(left))]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        drawn.append(_rank_correlation(left[rows], right[rows]))
    known = np.array([value for value in drawn if np.isfinite(value)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, (tail, 1 - tail)) if len(known) else (math.nan, math.nan)
    return Correlation(_rank_correlation(left, right), Interval(float(low), float(high)))


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    ranks = [rankdata(values) for values in (left, right)]
    if any(np.ptp(of) == 0 for of in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def running_mean(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and up to ``window - 1`` before it, float64 [n]."""
    if window < 1:
        raise SettingError("window", window, "Give at least 1.")
    array = np.asarray(values, np.float64)
    return np.array([array[max(0, i + 1 - window) : i + 1].mean() for i in range(len(array))])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SettingError("confidence", confidence, "Give a number between 0 and 1, such as 0.95.")
