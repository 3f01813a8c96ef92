"""Actions in an environment's own numbers, and in [-1, 1]."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moto_pl.envs.actions import ActionScale, ScaledActions, repeated, scaled
from moto_pl.errors import SettingError
from moto_pl.rollout.pool import EnvPool

WIDE = "misbehaving:moto_pl_test/Wide-v0"
SCALE = ActionScale((-2.0, 0.0), (6.0, 0.5))
BOUND = st.floats(-1000, 1000, width=32)


def test_by_hand() -> None:
    own = np.array([[-2, 0], [6, 0.5], [2, 0.25], [4, 0.125]], np.float32)
    policies = np.array([[-1, -1], [1, 1], [0, 0], [0.5, -0.5]], np.float32)
    assert np.array_equal(SCALE.to_policy(own), policies) and np.array_equal(SCALE.to_environment(policies), own)
    assert SCALE.to_policy(own).dtype == SCALE.to_environment(policies).dtype == np.float32
    assert str(SCALE) == "[-2, 0] to [6, 0.5]" and not SCALE.identity


@given(st.tuples(BOUND, BOUND), st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5))
def test_there_and_back(bounds: tuple[float, float], actions: list[float]) -> None:
    low, high = sorted(bounds)
    scale, action = ActionScale((low,), (high,)), np.array(actions, np.float32)[:, None]
    own = scale.to_environment(action)
    assert (own >= low - 1e-3).all() and (own <= high + 1e-3).all()
    if high - low > 1:
        np.testing.assert_allclose(scale.to_policy(own), action, atol=1e-3)


def test_actions_that_are_policies_own_are_not_touched() -> None:
    scale, action = ActionScale((-1.0, -1.0), (1.0, 1.0)), np.array([[0.3, 1.0]], np.float32)
    assert scale.identity and scale.to_policy(action) is action and scale.to_environment(action) is action


def test_a_number_that_is_always_the_same_stays_so() -> None:
    scale = ActionScale((3.0,), (3.0,))
    assert scale.to_policy(np.array([[3.0], [3.0]], np.float32)).tolist() == [[0.0], [0.0]]
    assert scale.to_environment(np.array([[-1.0], [1.0]], np.float32)).tolist() == [[3.0], [3.0]]


def test_percentiles_leave_the_odd_one_out() -> None:
    action = np.stack([np.linspace(0, 100, 101), np.r_[np.zeros(100), 1e6]], 1)
    found = ActionScale.of_data(action)
    np.testing.assert_allclose(found.low, (1, 0))
    np.testing.assert_allclose(found.high, (99, 0))


def test_written_down_and_read_back() -> None:
    plain = {name: list(value) for name, value in asdict(SCALE).items()}
    assert ActionScale.from_plain(plain) == SCALE and ActionScale.from_plain(None) is None
    for wrong in ({"low": [0.0]}, {"low": [7.0, 0.0]}, {"high": [float("inf"), 1.0]}):
        with pytest.raises(ValueError):
            ActionScale.from_plain({**plain, **wrong})


def test_only_an_environment_of_other_numbers_is_wrapped() -> None:
    env = gym.make("moto_pl/Reach-v0")
    assert scaled(env, None) is env and scaled(env, ActionScale((-1.0,) * 2, (1.0,) * 2)) is env
    wrapped = scaled(env, ActionScale((-0.5, -3.0), (0.5, 3.0)))
    assert isinstance(wrapped, ScaledActions)
    assert wrapped.action(np.array([1.0, 1.0])).tolist() == [0.5, 1.0]  # clipped to its Box


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("options", "scale"), [({}, None), ({"bounded": False}, SCALE)], ids=["bounds", "given"])
def test_a_pool_acts_in_the_environments_own_numbers(workers: int, options: dict[str, Any], scale: Any) -> None:
    """The same task in two sets of numbers looks the same to a policy."""
    seeds = [3, 4][: max(1, workers)]
    actions = np.random.default_rng(0).uniform(-1, 1, (6, len(seeds), 2)).astype(np.float32)
    seen = []
    for name, more, own in (("moto_pl/Reach-v0", {}, None), (WIDE, options, scale)):
        with EnvPool(name, {"reward": "dense", **more}, workers, scale=own) as pool:
            seen.append([pool.reset(seeds), *(pool.step(action)[:2] for action in actions)])
            low = float(pool.action_space.low[0])
    assert low == (-2 if not options else -np.inf)
    assert np.array_equal(seen[0][0], seen[1][0])
    for (image, reward), (other, paid) in zip(seen[0][1:], seen[1][1:], strict=True):
        assert np.abs(image.astype(int) - other).mean() < 1  # a pixel at the hand's edge
        np.testing.assert_allclose(reward, paid, atol=1e-5)


def test_a_scale_of_another_size_is_refused() -> None:
    with pytest.raises(SettingError, match="which takes actions of size 2, and the dataset's have 1"):
        EnvPool("moto_pl/Reach-v0", {}, 0, scale=ActionScale((0.0,), (1.0,)))


class Paid(gym.Env[np.ndarray, np.ndarray]):
    """Pays the number of its step, succeeds in step 2, and ends as told."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)

    def __init__(self, ends: int = 100, terminates: bool = False) -> None:
        self.ends, self.terminates, self.count = ends, terminates, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count >= self.ends
        info = {"is_success": self.count == 2, "at": self.count}
        terminated = over and self.terminates
        return np.full(1, self.count, np.float32), float(self.count), terminated, over and not self.terminates, info


def test_an_action_that_is_repeated() -> None:
    env = repeated(Paid(), 3)
    env.reset()
    seen, reward, terminated, truncated, info = env.step(np.zeros(1))
    assert (seen.item(), reward, terminated, truncated) == (3.0, 1 + 2 + 3, False, False)
    assert info == {"is_success": True, "at": 3}  # in its second step; the last one did not succeed
    assert env.step(np.zeros(1))[4] == {"is_success": False, "at": 6}
    plain = Paid()
    assert repeated(plain, 1) is plain


@pytest.mark.parametrize("terminates", [True, False])
def test_a_repeated_action_ends_with_the_episode(terminates: bool) -> None:
    env = repeated(Paid(4, terminates), 3)
    for _ in range(2):  # a reset begins anew
        env.reset()
        env.step(np.zeros(1))
        seen, reward, terminated, truncated, _ = env.step(np.zeros(1))
        assert (seen.item(), reward, terminated, truncated) == (4.0, 4.0, terminates, not terminates)
    if not terminates:  # beyond a time limit, where values are looked at, actions are repeated as ever
        assert env.step(np.zeros(1))[1] == 5 + 6 + 7


def test_a_repeated_action_ends_at_a_limit_and_goes_on_beyond() -> None:
    env = repeated(Paid(), 3, limit=4)
    env.reset()
    assert [env.step(np.zeros(1))[1] for _ in range(3)] == [1 + 2 + 3, 4, 5 + 6 + 7]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pool_repeats_actions_and_counts_the_environments_steps(workers: int) -> None:
    with EnvPool("moto_pl/Reach-v0", {"reward": "dense"}, workers, action_repeat=4) as pool:
        assert pool.max_episode_steps == 30
        pool.reset([3])
        ends = [bool(pool.step(np.zeros((1, 2), np.float32))[3][0]) for _ in range(8)]
    assert ends == [False] * 7 + [True]
