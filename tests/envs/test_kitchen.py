import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS, kitchen_id, make
from moto_pl.envs.kitchen import GRIPPER_CAMERA, STATE_SIZE, KitchenEnv
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("gl")

SHARED = Path(os.environ.get("MOTO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
EXPERT = SHARED / "kitchen_expert"


@pytest.fixture(scope="module")
def env():
    env = make("moto_pl/Kitchen-mixed-v0", objects=KITCHEN_OBJECTS, joint_noise=0.0, image_size=32).unwrapped
    yield env
    env.close()


def place(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where an object is among the positions, and what they are once it is in place."""
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    return kitchen_env.OBS_ELEMENT_INDICES[name], kitchen_env.OBS_ELEMENT_GOALS[name]


def placed(env: KitchenEnv, *names: str) -> np.ndarray:
    """The initial state with objects put where their task wants them."""
    env.reset(seed=0)
    state = env.state
    for name in names:
        at, goal = place(name)
        state[at] = goal
    return state


def test_passes_gymnasiums_checker_without_warnings():
    env = make(kitchen_id("partial"), render_mode="rgb_array", episode_steps=3, image_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_the_papers_tasks_are_told_apart_by_their_objects():
    assert KITCHEN_TASKS["mixed"] == ("microwave", "kettle", "light switch", "slide cabinet")
    assert KITCHEN_TASKS["partial"] == ("microwave", "kettle", "bottom burner", "light switch")


def test_nothing_is_in_place_at_first(env):
    _, info = env.reset(seed=3)
    assert not info["completed"].any() and not info["completed_ever"].any() and info["success"] is False
    assert not info["in_place"].any() and info["in_place"].shape == (7,)


@pytest.mark.parametrize("name", KITCHEN_OBJECTS)
def test_an_object_in_place_is_paid_at_every_step(env, name):
    env.set_state(placed(env, name))
    for _ in range(2):
        _, reward, terminated, truncated, info = env.step(np.zeros(9))
        assert reward == 1.0 and not terminated and not truncated
        assert [o for o, done in zip(env.objects, info["completed"], strict=True) if done] == [name]


@pytest.mark.parametrize("name", KITCHEN_OBJECTS)
def test_an_object_counts_within_the_threshold_of_its_goal_only(env, name):
    """Along the line from the goal to where it is at first: just inside, just outside."""
    start = placed(env)
    at, goal = place(name)
    away = (start[at] - goal) / np.linalg.norm(start[at] - goal)
    index = env.objects.index(name)
    for share, expected in ((0.99, True), (1.01, False)):
        state = start.copy()
        state[at] = goal + share * 0.3 * away
        env.data.qpos[:] = state[:30]  # as it is: setting a state would normalise the kettle's quaternion
        assert env.objects_in_place()[index] == expected


def test_the_task_decides_what_counts():
    env = make(kitchen_id("partial"), image_size=16, joint_noise=0.0).unwrapped
    env.set_state(placed(env, "microwave", "slide cabinet", "bottom burner"))
    _, reward, *_, info = env.step(np.zeros(9))
    assert reward == 2.0 and info["completed"].tolist() == [True, False, True, False] and not info["success"]
    env.set_state(placed(env, *KITCHEN_TASKS["partial"]))
    _, reward, _, _, info = env.step(np.zeros(9))
    assert reward == 4.0 and info["success"] is True
    env.close()


def test_what_was_in_place_once_is_remembered_and_only_that(env):
    env.set_state(placed(env, "microwave"))
    info = env.step(np.zeros(9))[-1]
    kept = info["completed_ever"]
    state = env.state
    (at, _), (slide, goal) = place("microwave"), place("slide cabinet")
    state[at], state[slide] = 0.0, goal
    env.set_state(state)
    _, reward, *_, info = env.step(np.zeros(9))
    index = [env.objects.index(name) for name in ("microwave", "slide cabinet")]
    assert reward == 1.0
    assert info["completed"][index].tolist() == [False, True] and info["completed_ever"][index].tolist() == [True, True]
    assert kept[index].tolist() == [True, False], "an info that was handed out does not change"
    assert not env.reset(seed=1)[1]["completed_ever"].any()


def test_a_subset_by_keyword():
    env = make(kitchen_id("mixed"), objects=["top_burner", "hinge cabinet"], image_size=16, episode_steps=2).unwrapped
    assert env.objects == ("top burner", "hinge cabinet")
    env.set_state(placed(env, "hinge cabinet"))
    _, reward, _, truncated, info = env.step(np.zeros(9))
    assert reward == 1.0 and info["completed"].tolist() == [False, True] and not truncated
    assert env.step(np.zeros(9))[3]
    env.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objects": ["kettel"]}, "objects: found 'kettel'. Did you mean kettle"),
        ({"objects": []}, "objects"),
        ({"objects": "kettle"}, "objects: found 'kettle'. Give a list"),
        ({"objects": ["kettle", "kettle"]}, "Name each object once"),
        ({"image_size": 0}, "image_size"),
        ({"episode_steps": 0}, "episode_steps"),
        ({"render_quality": "best"}, "render_quality"),
        ({"joint_noise": -1.0}, "joint_noise"),
        ({"camera": {"distance": 2}}, "camera"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        make(kitchen_id("mixed"), **settings)


@pytest.mark.parametrize("action", [np.zeros(8), np.full(9, np.nan)])
def test_bad_actions_are_named(env, action):
    env.reset(seed=0)
    with pytest.raises(SettingError, match="action"):
        env.step(action)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros(60), "state: found positions"),
        (np.zeros(29), "state: found positions"),
        (np.r_[np.zeros(29), np.nan], "state: found nan at number 29"),
        (np.r_[np.zeros(58), np.inf], "state: found inf at number 58"),
        (np.full(30, 1e12), "state: found 1"),
    ],
)
def test_bad_states_are_refused_and_change_nothing(env, state, message):
    env.reset(seed=0)
    before = env.state
    with pytest.raises(SettingError, match=message):
        env.set_state(state)
    np.testing.assert_array_equal(env.state, before)


def test_a_simulation_that_blows_up_ends_the_episode(env):
    state = placed(env, "microwave")
    state[30:] = 1e9
    env.set_state(state)
    observation, reward, terminated, truncated, info = env.step(np.zeros(9))
    assert truncated and not terminated and reward == 0.0 and info["unstable"]
    assert np.isfinite(env.state).all() and observation["image"].shape == (32, 32, 3)
    env.reset(seed=0)
    assert "unstable" not in env.step(np.zeros(9))[-1]


def test_a_state_set_is_the_state_read(env):
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.advance(rng.uniform(-1, 1, 9))
    state = env.state
    env.reset(seed=1)
    env.set_state(state)
    assert state.shape == (STATE_SIZE,)
    np.testing.assert_array_equal(env.state, state)


def test_the_same_state_is_drawn_the_same_whatever_came_before(env):
    """Also when the simulation itself arrived there: a frame is a function of the state alone."""
    env.reset(seed=0)
    for _ in range(4):
        env.advance(np.full(9, 0.7))
    state, image = env.state, env.render()
    env.reset(seed=1)
    env.set_state(state)
    assert np.abs(env.render().astype(int) - image).max() <= 1


def test_a_moved_kettle_moves_in_the_image():
    env = make(kitchen_id("mixed"), image_size=64).unwrapped
    state = placed(env)
    before = env.render().astype(int)
    centres = []
    for shift in (0.0, 0.3):
        at = place("kettle")[0][1]
        state[at] = placed(env)[at] + shift
        env.set_state(state)
        image = env.render().astype(int)
        handle = (image[..., 0] > image[..., 2] + 40) & (image[..., 0] > 100)  # orange
        centres.append(np.argwhere(handle)[:, 0].mean())
    assert np.abs(image - before).max() > 50
    assert centres[1] < centres[0] - 5, "pushed away from the camera, it is higher in the image"
    env.close()


@pytest.mark.parametrize("joint_noise", [0.0, 0.01])
def test_the_seed_decides_the_episode_whatever_came_before(joint_noise):
    def rollout(env, seed):
        rng = np.random.default_rng(0)
        images = [env.reset(seed=seed)[0]["image"]]
        images += [env.step(rng.uniform(-1, 1, 9))[0]["image"] for _ in range(5)]
        return np.stack(images), env.state

    first, second = (make(kitchen_id("mixed"), image_size=32, joint_noise=joint_noise).unwrapped for _ in range(2))
    images, state = rollout(first, 5)
    other = rollout(second, 6)[1]
    assert np.array_equal(other, state) == (joint_noise == 0)
    second.set_state(placed(second, "kettle"))
    second.reset()
    images_again, state_again = rollout(second, 5)
    np.testing.assert_array_equal(images_again, images)
    np.testing.assert_array_equal(state_again, state)
    first.close()
    second.close()


def test_another_process_sees_the_same():
    code = (
        "import hashlib, numpy as np; from moto_pl.envs import make\n"
        "env = make('moto_pl/Kitchen-mixed-v0', image_size=32); env.reset(seed=4)\n"
        "for _ in range(3): image = env.step(np.full(9, 0.5))[0]['image']\n"
        "print(hashlib.sha256(image.tobytes() + env.unwrapped.state.tobytes()).hexdigest()); env.close()"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 64


def test_actions_are_clipped_and_the_episode_is_cut_off():
    env = make(kitchen_id("mixed"), image_size=16, episode_steps=2, joint_noise=0.0).unwrapped
    states = []
    for size in (1.0, 5.0):
        env.reset(seed=0)
        assert not env.step(np.full(9, size))[3]
        assert env.step(np.full(9, size))[3]
        states.append(env.state)
    np.testing.assert_array_equal(*states)
    env.close()


def test_the_grippers_camera_goes_where_the_hand_goes_and_looks_where_it_points(env):
    env.reset(seed=0)
    places = []
    for _ in range(3):
        env.view("image")  # which brings the bodies up to date
        camera, site = GRIPPER_CAMERA.placed(env.data), env.data.site("end_effector")
        assert camera == GRIPPER_CAMERA.placed(env.data) and camera.distance == 0.5
        direction = site.xmat.reshape(3, 3)[:, 2]
        np.testing.assert_allclose(camera.lookat, site.xpos + 0.05 * direction)
        flat = np.array([np.cos(np.radians(camera.azimuth)), np.sin(np.radians(camera.azimuth))])
        np.testing.assert_allclose(flat, direction[:2] / np.linalg.norm(direction[:2]))
        assert camera.elevation == pytest.approx(max(-89.0, np.degrees(np.arcsin(direction[2])) - 35.0))
        places.append(camera)
        env.advance(np.ones(9))
    assert len(set(places)) == 3


def test_the_state_is_observed_when_asked_for():
    env = make(kitchen_id("mixed"), image_size=16, state=True).unwrapped
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["state"], env.state)
    assert env.observation_space.contains(observation)
    env.close()


def test_real_episodes_of_the_papers_authors_replay():
    if not EXPERT.is_dir():
        pytest.skip(f"no {EXPERT}: set MOTO_SHARED_DATA to the folder that holds kitchen_expert")
    env = make(kitchen_id("mixed"), joint_noise=0.0, render_quality="full").unwrapped
    completed = 0
    for path in sorted(EXPERT.glob("*.npz")):
        with np.load(path, allow_pickle=False) as episode:
            actions, first = episode["action"][1:], episode["image"][0].astype(int)
        observation, _ = env.reset(seed=0)
        assert np.abs(observation["image"] - first).mean() < 8.0
        ever = np.zeros(4, bool)
        for action in actions:
            env.advance(action)
            ever |= env.objects_in_place()
        completed += int(ever.sum())
    env.close()
    assert completed >= 16


def test_both_qualities_show_whether_the_light_is_on():
    """The lamp's glow on the hob, off and on: `fast` draws no shadow of the shade, and must show it all the same."""
    glow = {}
    for quality in ("full", "fast"):
        env = make(kitchen_id("mixed"), render_quality=quality).unwrapped
        images = []
        for names in ((), ("light switch",), ()):
            env.set_state(placed(env, *names))
            images.append(env.render().astype(float)[22:38, 30:46].mean())
        glow[quality] = images
        env.close()
    for off, on, off_again in glow.values():
        assert on > off + 40 and off == off_again
    assert abs((glow["fast"][1] - glow["fast"][0]) - (glow["full"][1] - glow["full"][0])) < 40
