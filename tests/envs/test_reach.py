import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from moto_pl.envs import make
from moto_pl.errors import SettingError

ID = "moto_pl/Reach-v0"


def test_passes_gymnasiums_checker_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(ID, render_mode="rgb_array").unwrapped)


def test_scripted_policy_succeeds_and_is_paid_for_staying():
    env = make(ID)
    for seed in range(20):
        env.reset(seed=seed)
        rewards = []
        truncated = False
        while not truncated:
            _, reward, terminated, truncated, info = env.step(env.unwrapped.scripted_action())
            assert not terminated and info["success"] is (reward == 1.0)
            rewards.append(reward)
        assert len(rewards) == 30
        assert rewards[-1] == 1.0 and rewards[0] == 0.0
        first = rewards.index(1.0)
        assert all(rewards[first:])


def test_seeds_decide_the_episode():
    one, two = make(ID), make(ID)
    two.reset(seed=99)
    two.step(two.action_space.sample())
    first, second = one.reset(seed=4)[0]["image"], two.reset(seed=4)[0]["image"]
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, one.reset(seed=5)[0]["image"])
    np.testing.assert_array_equal(one.reset(seed=4)[0]["image"], first)
    assert not np.array_equal(one.reset()[0]["image"], first)


def test_image_shows_hand_and_goal_where_they_are():
    env = make(ID, image_size=100).unwrapped
    image = env.reset(seed=0)[0]["image"].astype(int)
    for colour, (x, y) in (((220, 60, 50), env.state[2:]), ((70, 210, 90), env.state[:2])):
        rows, columns = np.where((image == colour).all(-1))
        assert columns.mean() == pytest.approx((x + 1) * 50, abs=1.5)
        assert rows.mean() == pytest.approx((1 - y) * 50, abs=1.5)


def test_bad_arguments():
    with pytest.raises(SettingError, match="image_size"):
        make(ID, image_size=8)
    with pytest.raises(SettingError, match="episode_steps"):
        make(ID, episode_steps=0)
    with pytest.raises(SettingError, match="goal"):
        make(ID, goal="left")
    with pytest.raises(SettingError, match="reward"):
        make(ID, reward="none")
    with pytest.raises(SettingError, match="hand_radius"):
        make(ID, hand_radius=0)


def test_goal_in_the_centre_and_dense_reward():
    env = make(ID, goal="centre", reward="dense", episode_steps=12)
    hands = []
    for seed in range(5):
        env.reset(seed=seed)
        hands.append(env.unwrapped.state[:2])
        assert env.unwrapped.state[2:].tolist() == [0, 0] and np.linalg.norm(hands[-1]) > 0.45
        _, reward, *_, info = env.step(np.zeros(2, np.float32))
        assert reward == pytest.approx(max(0.0, 1 - np.linalg.norm(hands[-1]))) and not info["success"]
    assert len({tuple(hand) for hand in hands}) == 5


def test_a_larger_hand_is_drawn_larger():
    areas = [(make(ID, hand_radius=r).reset(seed=0)[0]["image"] == (70, 210, 90)).all(-1).sum() for r in (0.1, 0.2)]
    assert areas[1] == pytest.approx(4 * areas[0], rel=0.2)
