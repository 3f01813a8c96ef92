"""Intervals for the few episodes that a policy is judged by: scipy's, with arguments checked and edges settled.

The inter-quartile mean is our own: scipy's trimmed mean drops whole values, so it would jump where a seed is added.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, spearmanr

from moto_pl.errors import SettingError

_CONFIDENCE = 0.95
_DRAWS = 1_000_000  # numbers drawn at a time, to bound memory


class Interval(NamedTuple):
    """A closed interval."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> Interval:
    """Wilson's 95% score interval of a success rate.

    It stays within [0, 1] and says something at 0 of n and n of n, where the textbook interval has no width.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.

    Raises:
        SettingError: where an argument is out of its range.
    """
    if trials < 1:
        raise SettingError("trials", trials, "Give at least 1.")
    if not 0 <= successes <= trials:
        raise SettingError("successes", successes, f"Give 0 to {trials}.")
    low, high = binomtest(successes, trials).proportion_ci(_CONFIDENCE, method="wilson")
    return Interval(float(low), float(high))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """95% percentile bootstrap interval of a statistic; the same ``seed`` gives the same interval.

    Args:
        values: finite numbers [n], n >= 1. Of a single one the interval has no width: it says nothing.
        statistic: takes [..., n] and ``axis=-1``, gives [...]: ``np.mean``, ``np.median``.
        resamples: samples drawn with replacement.
        seed: of the draws.

    Raises:
        SettingError: where an argument is out of its range.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise SettingError("values", f"{array.shape} numbers", "Give a list of at least one finite number.")
    if resamples < 1:
        raise SettingError("resamples", resamples, "Give at least 1.")
    if array.size == 1:
        return Interval(float(array[0]), float(array[0]))
    found = bootstrap(
        (array,),
        statistic,
        n_resamples=resamples,
        batch=max(1, _DRAWS // array.size),
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=seed,
    )
    low, high = found.confidence_interval
    return Interval(float(low), float(high))


def interquartile_mean(values: np.ndarray | Sequence[float], axis: int = -1) -> np.ndarray:
    """The mean of the middle half; a value that the quartile cuts through counts in part.

    Args:
        values: [..., n], n >= 1.
        axis: the last one.

    Returns:
        [...].
    """
    array = np.asarray(values, np.float64)
    if axis not in (-1, array.ndim - 1) or not array.ndim or not array.shape[-1]:
        raise SettingError("values", f"{array.shape} along axis {axis}", "Give [..., n] along the last axis.")
    ordered, count = np.sort(array, axis=-1), array.shape[-1]
    edges = np.arange(count + 1)
    # How much of each value lies in the middle half [n / 4, 3n / 4] of the order.
    inside = np.clip(np.minimum(edges[1:], 0.75 * count) - np.maximum(edges[:-1], 0.25 * count), 0, None)
    return np.asarray(ordered @ (inside / inside.sum()))


class Correlation(NamedTuple):
    """Spearman's rank correlation and its interval."""

    value: float
    interval: Interval


def spearman(left: np.ndarray, right: np.ndarray, group: np.ndarray | None = None) -> Correlation:
    """Spearman's rank correlation with a 95% percentile bootstrap interval.

    Args:
        left: [n].
        right: [n].
        group: [n], which values were found together (an episode's); whole groups are drawn. None draws single values.

    Returns:
        Both; nan where a side is constant, so that there is no order to speak of.
    """
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise SettingError("left", f"{left.shape} and {right.shape} numbers", "Give two lists of the same length.")
    names = np.arange(len(left)) if group is None else np.asarray(group)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(members) == 1:  # one group says nothing about others: its own values are drawn
        members = [np.array([i]) for i in range(len(left))]
    value = rank_correlation(left, right)
    if len(members) == 1:  # a single pair
        return Correlation(value, Interval(math.nan, math.nan))

    def of_groups(drawn: np.ndarray) -> float:
        rows = np.concatenate([members[int(i)] for i in drawn])
        return rank_correlation(left[rows], right[rows])

    with warnings.catch_warnings():
        # A sample may hold a side that is constant: it says nothing, and must not make the interval unknown.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        groups = (np.arange(len(members)),)
        drawn = bootstrap(groups, of_groups, n_resamples=1000, vectorized=False, method="percentile", rng=0)
    found = drawn.bootstrap_distribution
    known, tail = found[np.isfinite(found)], (1 - _CONFIDENCE) / 2
    low, high = np.quantile(known, (tail, 1 - tail)) if len(known) else (math.nan, math.nan)
    return Correlation(value, Interval(float(low), float(high)))


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's correlation of two lists [n]; nan where one of them is all the same."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return math.nan
    return float(spearmanr(left, right).statistic)


def running_mean(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and up to ``window - 1`` before it, float64 [n]."""
    if window < 1:
        raise SettingError("window", window, "Give at least 1.")
    array = np.asarray(values, np.float64)
    return np.array([array[max(0, i + 1 - window) : i + 1].mean() for i in range(len(array))])
