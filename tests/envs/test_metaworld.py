import hashlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from moto_pl.envs import METAWORLD_TASKS, PAPER_TASKS, make, metaworld_id
from moto_pl.envs.rendering import Camera
from moto_pl.errors import SettingError
from moto_pl.rollout.pool import EnvPool

pytestmark = pytest.mark.usefixtures("gl")


def rollout(env, seed: int | None, steps: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, states and rewards of an episode that mixes scripted and random actions."""
    rng = np.random.default_rng(seed)
    images, states, rewards = [env.reset(seed=seed)[0]["image"]], [env.unwrapped.state], []
    for step in range(steps):
        action = env.unwrapped.scripted_action() if step % 2 else rng.uniform(-1, 1, 4).astype(np.float32)
        observation, reward, *_ = env.step(action)
        images.append(observation["image"])
        states.append(env.unwrapped.state)
        rewards.append(reward)
    return np.stack(images), np.stack(states), np.array(rewards)


def assert_same(first, second):
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


def scripted_episode(env, seed: int) -> np.ndarray:
    env.reset(seed=seed)
    rewards, truncated = [], False
    while not truncated:
        _, reward, terminated, truncated, info = env.step(env.unwrapped.scripted_action())
        assert not terminated and type(info["success"]) is bool and reward == float(info["success"])
        rewards.append(reward)
    return np.array(rewards)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_passes_gymnasiums_checker_without_warnings(task):
    env = make(metaworld_id(task), render_mode="rgb_array", episode_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_seed_decides_the_episode_whatever_came_before(task):
    one, two = make(metaworld_id(task)), make(metaworld_id(task))
    first = rollout(one, 5)
    rollout(two, 7, steps=3)
    two.reset()
    assert_same(first, rollout(two, 5))
    assert_same(first, rollout(one, 5))
    other = rollout(one, 6, steps=0)
    assert not np.array_equal(first[1][0], other[1][0]), "another seed, other positions"
    assert not np.array_equal(first[0][0], other[0][0]), "and they can be seen"
    one.close()
    two.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in METAWORLD_TASKS if task not in PAPER_TASKS])
def test_all_other_tasks_too(task):
    one, two = make(metaworld_id(task)), make(metaworld_id(task))
    first = rollout(one, 5, steps=4)
    rollout(two, 7, steps=2)
    two.reset()
    assert_same(first, rollout(two, 5, steps=4))
    assert_same(first, rollout(one, 5, steps=4))
    assert not np.array_equal(first[1][0], rollout(one, 6, steps=0)[1][0])
    one.close()
    two.close()


def test_the_same_episode_in_another_process():
    env = make(metaworld_id("hammer"))
    rollout(env, 1)
    images, states, _ = rollout(env, 12)
    code = f"""
import sys; sys.path[:] = {sys.path!r}
import hashlib
from test_metaworld import make, metaworld_id, rollout
images, states, _ = rollout(make(metaworld_id("hammer")), 12)
print(hashlib.sha256(images.tobytes() + states.tobytes()).hexdigest())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == hashlib.sha256(images.tobytes() + states.tobytes()).hexdigest()


def test_workers_give_the_same_episodes():
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2, 4)).astype(np.float32)
    alone = make(metaworld_id("door-open"))
    with EnvPool(metaworld_id("door-open"), {"render_quality": "fast"}, 2) as pool:
        together = [pool.reset([21, 22])] + [pool.step(action)[0] for action in actions]
        assert pool.image_size == 64 and pool.action_space == alone.action_space
    for index, seed in enumerate((21, 22)):
        images = [alone.reset(seed=seed)[0]["image"]] + [alone.step(action[index])[0]["image"] for action in actions]
        np.testing.assert_array_equal(np.stack(images), np.stack(together)[:, index])


def test_resets_without_a_seed_follow_from_the_last_seed():
    env = make(metaworld_id("window-open"))
    runs = []
    for _ in range(2):
        env.reset(seed=3)
        runs.append([env.reset()[0]["image"] for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][0], runs[0][1]) and not np.array_equal(runs[0][1], runs[0][2])


def test_global_random_state_neither_matters_nor_changes():
    env = make(metaworld_id("coffee-push"))
    np.random.seed(1)
    first = rollout(env, 2)
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    assert_same(first, rollout(env, 2))
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_first_image_already_shows_the_goal_in_its_place():
    env = make(metaworld_id("plate-slide"))
    for seed in range(3):
        env.reset(seed=seed)
        simulator = env.unwrapped._simulator
        np.testing.assert_allclose(simulator.data.site("goal").xpos, simulator._target_pos, atol=1e-6)
        np.testing.assert_array_equal(env.unwrapped.state[-3:], simulator._target_pos)


@pytest.mark.parametrize(("task", "mean_return"), [("drawer-open", 48.0), ("window-open", 60.5), ("door-open", 15.2)])
def test_scripted_policy_succeeds_about_as_in_table_1(task, mean_return):
    env = make(metaworld_id(task))
    env.unwrapped._observe = lambda: {"image": np.zeros((64, 64, 3), np.uint8)}  # only rewards matter here
    returns = [scripted_episode(env, seed) for seed in range(4)]
    assert all(len(rewards) == 101 and rewards.any() for rewards in returns)
    assert np.sum(returns, 1).mean() == pytest.approx(mean_return, rel=0.35)


def test_doing_nothing_earns_nothing():
    env = make(metaworld_id("drawer-open"), episode_steps=20)
    env.reset(seed=0)
    assert not any(env.step(np.zeros(4, np.float32))[1] for _ in range(20))


def test_scripted_actions_lie_in_the_action_space():
    env = make(metaworld_id("assembly"))
    env.reset(seed=0)
    for _ in range(20):
        action = env.unwrapped.scripted_action()
        assert env.action_space.contains(action)
        env.step(action)


def test_an_action_is_repeated():
    once, twice = make(metaworld_id("drawer-open"), action_repeat=1), make(metaworld_id("drawer-open"))
    action = np.array([0.3, -0.5, 0.2, 1.0], np.float32)
    once.reset(seed=1)
    twice.reset(seed=1)
    once.step(action)
    once.step(action)
    twice.step(action)
    np.testing.assert_array_equal(once.unwrapped.state, twice.unwrapped.state)


def test_metaworlds_own_time_limit_does_not_apply():
    env = make(metaworld_id("reach"), episode_steps=260)
    env.unwrapped._observe = lambda: {"image": np.zeros((64, 64, 3), np.uint8)}
    assert len(scripted_episode(env, 0)) == 260  # 520 simulator steps; its own limit is 500


@pytest.mark.parametrize("camera", ["paper", "corner2", "corner", "corner3"])
def test_images_are_upright(camera):
    """The table, which is brown, lies below the arm, which is red, wherever the camera is."""
    env = make(metaworld_id("drawer-open"), camera=camera, image_size=96)
    image = env.reset(seed=0)[0]["image"].astype(int)
    red, green, blue = np.moveaxis(image, -1, 0)
    table = (red - blue > 15) & (red - green > 5) & (red - green < 60) & (red > 40)
    arm = red - green > 80
    assert table.sum() > 300 and arm.sum() > 100
    assert np.median(np.where(table)[0]) > np.median(np.where(arm)[0])


def test_raising_the_hand_moves_it_up_in_the_image():
    for camera in ("paper", "corner2"):
        env = make(metaworld_id("reach"), camera=camera, image_size=96)
        env.reset(seed=0)
        rows = []
        for direction in (-1.0, 1.0):
            for _ in range(12):
                image = env.step(np.array([0, 0, direction, 0], np.float32))[0]["image"].astype(int)
            fingers = (image[..., 2] - image[..., 0] > 60) & (image[..., 1] - image[..., 0] > 60)  # one is cyan
            rows.append(np.where(fingers)[0].mean())
        assert rows[1] < rows[0] - 3


def test_cameras_sizes_and_qualities_differ():
    task = metaworld_id("door-open")
    images = {}
    for key, kwargs in {
        "paper": {},
        "same": {"camera": {"distance": 0.75, "lookat": [-0.15, 0.65, 0.25], "azimuth": 15, "elevation": -22.5}},
        "free": {"camera": Camera(1.5, (0.0, 0.6, 0.2), 90.0, -30.0)},
        "corner2": {"camera": "corner2"},
        "full": {"render_quality": "full"},
    }.items():
        env = make(task, **kwargs)
        images[key] = env.reset(seed=0)[0]["image"]
        env.close()
    np.testing.assert_array_equal(images.pop("same"), images["paper"])
    values = list(images.values())
    assert all(not np.array_equal(a, b) for i, a in enumerate(values) for b in values[:i])
    small = make(task, image_size=32).reset(seed=0)[0]["image"]
    assert small.shape == (32, 32, 3)
    large = make(task, image_size=700).reset(seed=0)[0]["image"]  # beyond the scene's own buffer
    assert large.shape == (700, 700, 3) and large[650:].std() > 1 and large[:, 650:].std() > 1


def test_paper_reset_starts_the_hand_elsewhere_with_noise():
    plain, paper = make(metaworld_id("drawer-open")), make(metaworld_id("drawer-open"), paper_reset=True)
    hands = []
    for seed in range(3):
        plain.reset(seed=seed)
        paper.reset(seed=seed)
        hands.append(paper.unwrapped.state[:3])
        assert np.linalg.norm(hands[-1] - plain.unwrapped.state[:3]) > 0.05
        assert np.abs(hands[-1] - [0.1, 0.5, 0.3]).max() < 0.15
    assert np.ptp(hands, axis=0).max() > 0.005
    assert_same(rollout(paper, 1), rollout(paper, 1))


def test_bad_arguments():
    from moto_pl.envs.metaworld import MetaWorldEnv

    with pytest.raises(SettingError, match="task: found 'dor-open'. Did you mean door-open.*List all"):
        MetaWorldEnv("dor-open")
    for name, value in (("image_size", 0), ("action_repeat", 0), ("episode_steps", 0), ("render_quality", "best")):
        with pytest.raises(SettingError, match=f"{name}: found {value}"):
            make(metaworld_id("reach"), **{name: value})
    env = make(metaworld_id("reach"), camera="nowhere")
    with pytest.raises(SettingError, match="camera: found nowhere.*corner2"):
        env.reset(seed=0)
    env = make(metaworld_id("reach"))
    env.reset(seed=0)
    for action in (np.full(4, np.nan), np.zeros(3)):
        with pytest.raises(SettingError, match="action"):
            env.step(action)
