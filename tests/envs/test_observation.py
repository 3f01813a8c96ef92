"""What is observed: names, sizes, and what environments give under them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from moto_pl.envs import make
from moto_pl.envs.observation import (
    IMAGE_ALONE,
    Observation,
    ObservationConfig,
    cameras_beside,
    check_image_size,
    entry,
    env_arguments,
    joined,
    seen,
)
from moto_pl.envs.reach import ReachEnv
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError
from moto_pl.rollout.play import observed, play
from moto_pl.rollout.pool import EnvPool

HAND = ObservationConfig(state=("hand",))
CAMERAS = "misbehaving:moto_pl_test/Cameras-v0"
ODD = "misbehaving:moto_pl_test/OddVector-v0"


def test_the_default_is_the_image_alone() -> None:
    assert ObservationConfig() == IMAGE_ALONE and IMAGE_ALONE.names == ("image",)
    assert Observation().vector_size == 0 and Observation.of(IMAGE_ALONE, {}) == Observation()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cameras": ()}, "data.observation.cameras: found"),
        ({"state": ("hand", "hand")}, "data.observation: found .*Name each observation once"),
        ({"state": ("image",)}, "data.observation: found .*once"),
    ],
)
def test_names_that_mean_nothing(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        ObservationConfig(**settings)


def test_an_observation_is_written_down_and_read_back() -> None:
    found = Observation(("front",), {"b": 2, "a": 1}, (0.5, 1.0, -3.0), (1.0, 2.0, 0.25))
    plain = {**asdict(found), "cameras": list(found.cameras), "mean": list(found.mean), "std": list(found.std)}
    again = Observation.from_plain(plain)
    assert again == found and again.layout == found.layout and again.config.state == ("b", "a")
    turned = Observation.from_plain({**plain, "state": {"a": 1, "b": 2}})
    assert turned.layout != found.layout  # the same sizes, and numbers that mean something else
    assert found.image_size == 64 and {"image_size": 64}.items() <= asdict(found).items()
    earlier = Observation.from_plain({name: value for name, value in plain.items() if name != "image_size"})
    assert earlier == found  # which wrote down no size
    assert Observation.from_plain({**plain, "image_size": 96}).layout != found.layout
    for wrong in (
        {"image_size": 80},
        {"cameras": []},
        {"mean": [0.0]},
        {"std": [1.0, 0.0, 1.0]},
        {"std": [1.0, float("nan"), 1.0]},
    ):
        with pytest.raises(ValueError):
            Observation.from_plain({**plain, **wrong})


def test_entries_may_lie_in_others() -> None:
    inner = {"robot": {"qpos": np.arange(3.0)}, "a/b": np.ones(1), "image": np.zeros((2, 2, 3), np.uint8)}
    assert entry(inner, "robot/qpos") is inner["robot"]["qpos"] and entry(inner, "a/b") is inner["a/b"]
    assert entry(inner, "robot/qvel") is None and entry(inner, "none") is None and entry(inner, "a/b/c") is None
    image, vector = seen(inner, ObservationConfig(state=("a/b", "robot/qpos")))
    assert image is inner["image"] and vector is not None and vector.dtype == np.float32
    assert vector.tolist() == [1, 0, 1, 2]
    assert seen(inner, IMAGE_ALONE).vector is None and joined([]) is None


def test_our_environments_are_told_what_to_observe_and_others_are_not() -> None:
    assert env_arguments("moto_pl/Reach-v0", {"goal": "centre"}, IMAGE_ALONE) == {"goal": "centre"}
    for name in ("moto_pl/Reach-v0", "moto_pl:moto_pl/Reach-v0"):
        assert env_arguments(name, {}, HAND) == {"observe": ["image", "hand"]}
    assert env_arguments("other/Reach-v0", {}, HAND, 96) == {}
    assert env_arguments("moto_pl/Reach-v0", {}, IMAGE_ALONE, 64) == {}
    assert env_arguments("moto_pl/Reach-v0", {}, IMAGE_ALONE, 96) == {"image_size": 96}
    assert env_arguments("moto_pl/Reach-v0", {"image_size": 64}, IMAGE_ALONE, 96) == {"image_size": 64}
    assert env_arguments("moto_pl/Reach-v0", {"observe": ["image"]}, HAND) == {"observe": ["image"]}


def test_the_hand_of_the_reaching_task() -> None:
    env = ReachEnv(observe=("image", "hand"))
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=3)
    plain, _ = ReachEnv().reset(seed=3)
    assert np.array_equal(observation["image"], plain["image"]) and set(plain) == {"image"}
    assert np.array_equal(observation["hand"], env.state[:2])
    before = observation["hand"].copy()
    observation, *_ = env.step(np.array([1.0, -0.5]))
    assert np.array_equal(before, before.copy()) and np.array_equal(observation["hand"], env.state[:2])
    np.testing.assert_allclose(observation["hand"] - before, [0.08, -0.04], atol=1e-12)


@pytest.mark.parametrize("observe", [["image", "joints"], ["hand"], ["image", "hand", "hand"], "hand"])
def test_what_an_environment_does_not_offer(observe: Any) -> None:
    with pytest.raises(SettingError, match="observe: found"):
        ReachEnv(observe=observe)


@pytest.mark.parametrize("size", [0, 32, 63, 65, 80, 256])
def test_sizes_that_no_network_is_made_for(size: int) -> None:
    with pytest.raises(SettingError, match=rf"data\.image_size: found {size}. Give one of 64, 96, 128\."):
        check_image_size(size)
    assert [check_image_size(known) for known in (64, 96, 128)] == [64, 96, 128]


def test_the_camera_above_the_hand_of_the_reaching_task() -> None:
    env = ReachEnv(observe=("wrist", "image"))
    check_env(env, skip_render_check=True)
    observation, _ = env.reset(seed=3)
    plain, _ = ReachEnv().reset(seed=3)
    assert list(observation) == ["wrist", "image"] and np.array_equal(observation["image"], plain["image"])
    assert np.array_equal(env.render(), plain["image"])
    for _ in range(25):  # the hand stays in the middle, and is twice as large as from afar
        wrist = env.step(np.array([1.0, 0.7]))[0]["wrist"]
        hand = np.argwhere((wrist == (70, 210, 90)).all(-1))
        np.testing.assert_allclose(hand.mean(0), 31.5, atol=0.6)
    assert len(hand) > 2.5 * (env.view("image") == (70, 210, 90)).all(-1).sum()
    assert (wrist == 0).all(-1).any()  # beyond the walls, which it has come to
    with pytest.raises(SettingError, match="an image among them: image or wrist"):
        ReachEnv(observe=("hand",))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_stacks_the_cameras(workers: int) -> None:
    seeds = [4, 5][: max(1, workers)]
    wanted = ObservationConfig(("wrist", "image"), ("hand",))
    with EnvPool("moto_pl/Reach-v0", {}, workers, wanted=wanted, image_size=96) as pool:
        assert pool.image_shape == (96, 96, 6)
        assert pool.observation == Observation(("wrist", "image"), {"hand": 2}, (0.0, 0.0), (1.0, 1.0), 96)
        shown = [pool.reset(seeds), pool.step(np.ones((len(seeds), 2), np.float32))[0]]
    for i, seed in enumerate(seeds):
        env = ReachEnv(96, observe=("image", "wrist"))
        for found, now in zip(shown, (env.reset(seed=seed)[0], env.step(np.ones(2))[0]), strict=True):
            assert np.array_equal(found[i], np.concatenate([now["wrist"], now["image"]], -1))
            assert np.array_equal(cameras_beside(found[i]), np.concatenate([now["wrist"], now["image"]], 1))


def test_cameras_of_another_environment() -> None:
    both = ObservationConfig(("image", "odd"))
    with EnvPool(CAMERAS, {}, 0, wanted=both) as pool:
        assert pool.reset([0]).shape == (1, 64, 64, 6)
    for what, said in (
        ("smaller", r"observes 'image' as uint8 \(64, 64, 3\) and 'odd' as uint8 \(32, 32, 3\). Give all cameras one"),
        ("returns smaller", r"observes 'odd' as uint8 \(32, 32, 3\).*, where it declares uint8 \(64, 64, 3\)"),
        ("returns none", "observes 'image' at reset, and no 'odd'"),
    ):
        with pytest.raises(SettingError, match=said) as caught:
            EnvPool(CAMERAS, {"what": what}, 0, wanted=both)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(f"data.env: found {CAMERAS}")


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_another_environment_are_resized(workers: int) -> None:
    """Each camera's from its own size, at every step, as an import resizes a dataset's; and it is said which."""
    wanted = ObservationConfig(("odd", "image"))
    with EnvPool(CAMERAS, {"what": "wide"}, workers, wanted=wanted, image_size=64) as pool:
        assert pool.image_shape == (64, 64, 6) and pool.observation == Observation(wanted.cameras)
        assert pool.resized == "'odd' of 48x80"
        shown = [pool.reset([4]), pool.step(np.ones((1, 2), np.float32))[0]]
    env = make(CAMERAS, what="wide")
    drawn = [env.reset(seed=4)[0], env.step(np.ones(2, np.float32))[0]]
    for found, now in zip(shown, drawn, strict=True):
        assert now["odd"].shape == (48, 80, 3) and now["odd"].std() > 10
        assert np.array_equal(found[0, ..., :3], resize(now["odd"], 64))
        assert np.array_equal(found[0, ..., 3:], now["image"])
    assert not np.array_equal(drawn[0]["odd"], drawn[1]["odd"])
    with EnvPool(CAMERAS, {}, workers, image_size=64) as pool:
        assert pool.resized == ""
    with pytest.raises(SettingError, match=r"observes 'odd' as uint8 \(32, 32, 3\).*declares uint8 \(64, 64, 3\)"):
        EnvPool(CAMERAS, {"what": "returns smaller"}, workers, wanted=wanted, image_size=64)


def test_a_frame_of_the_size_is_not_touched() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert resize(frame, 64) is frame
    assert resize(frame, 32).shape == (32, 32, 3)
    # A triangle as wide as the pixel that it becomes: neighbours weigh 1, 3, 3, 1 eighths on the way down to half.
    row = np.zeros((64, 64, 3), np.uint8)
    row[:, 20] = 240
    assert resize(row, 32)[16, 8:13, 0].tolist() == [0, 30, 90, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_shows_the_vectors_of_its_images(workers: int) -> None:
    seeds = [4, 5][: max(1, workers)]
    actions = np.linspace(-1, 1, 2 * len(seeds), dtype=np.float32).reshape(-1, 2)
    with EnvPool("moto_pl/Reach-v0", {"episode_steps": 2}, workers, wanted=HAND) as pool:
        assert pool.observation == Observation(("image",), {"hand": 2}, (0.0, 0.0), (1.0, 1.0))
        pool.reset(seeds)
        found = [pool.vector]
        for _ in range(3):  # the last after the episodes' end, where the last one is repeated
            pool.step(actions)
            found.append(pool.vector)
    for i, seed in enumerate(seeds):
        env = ReachEnv()
        env.reset(seed=seed)
        wanted = [env.state[:2]]
        for _ in range(2):
            env.step(actions[i])
            wanted.append(env.state[:2])
        for step, vector in enumerate([*wanted, wanted[-1]]):
            assert found[step] is not None and found[step].dtype == np.float32  # type: ignore[union-attr]
            assert np.array_equal(found[step][i], vector.astype(np.float32))  # type: ignore[index]


def test_a_pool_without_vectors_has_none() -> None:
    with EnvPool("moto_pl/Reach-v0", {}, 0) as pool:
        pool.reset([0])
        assert pool.vector is None and pool.observation == Observation()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "observes 'hand', 'image', and no 'joints'.*data.observation.state"),
        ("matrix", r"declares its observation 'joints' as float64 \(2, 2\), where a flat Box is wanted"),
        ("discrete", "declares its observation 'joints' as Discrete"),
        ("returns none", "observes 'image', 'hand' at reset, and no 'joints'"),
        ("returns another", r"observes 'joints' as float64 \(4,\).* at reset, where it declares 3 numbers"),
        ("returns nan", "observes 'joints' as float64 .*nan.* at reset. Return finite numbers"),
        ("returns vast", "observes 'joints' as float64 .*1e\\+300.* at reset. Return finite numbers"),
    ],
)
def test_vectors_that_are_not_what_they_should_be(what: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        EnvPool(ODD, {"what": what}, 0, wanted=ObservationConfig(state=("joints",)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"data.env: found {ODD}")


def test_an_image_of_another_name() -> None:
    with EnvPool(ODD, {"what": "front"}, 0, wanted=ObservationConfig(("front",), ("joints",))) as pool:
        assert (
            pool.reset([0]).shape == (1, 64, 64, 3) and pool.vector is not None and pool.vector.tolist() == [[0, 1, 2]]
        )


def test_played_episodes_hold_what_was_observed() -> None:
    env = ReachEnv(observe=("image", "hand"), episode_steps=3)
    assert observed(env) == Observation(("image",), {"hand": 2}, (0.0, 0.0), (1.0, 1.0))
    told = []

    def script(step: int, now: Any) -> np.ndarray:
        told.append(now.vector)
        return np.ones(2, np.float32)

    episode = play(env, 1, script)
    assert episode.vector is not None and episode.vector.shape == (4, 2)
    assert np.array_equal(np.stack(told), episode.vector[:-1])
    assert np.array_equal(episode.vector[-1], env.state[:2].astype(np.float32))
    assert play(ReachEnv(episode_steps=3), 1, script).vector is None


@pytest.mark.parametrize(
    ("env_id", "cameras"),
    [
        ("moto_pl/MetaWorld-drawer-open-v0", ("corner", "corner2", "gripper", "topview")),
        ("moto_pl/Kitchen-mixed-v0", ("side", "gripper")),
    ],
)
def test_the_simulators_cameras(gl: str, env_id: str, cameras: tuple[str, ...]) -> None:
    """Beside the paper's, which is what it is alone; in any order, each what the scene's camera shows."""
    env = make(env_id, observe=[*cameras, "image"], image_size=32)
    first, _ = env.reset(seed=1)
    moved, *_ = env.step(np.ones(env.action_space.shape, np.float32))  # type: ignore[arg-type]
    assert list(first) == [*cameras, "image"]
    env.close()
    alone = make(env_id, image_size=32)
    assert np.array_equal(alone.reset(seed=1)[0]["image"], first["image"])
    assert np.array_equal(alone.step(np.ones(env.action_space.shape, np.float32))[0]["image"], moved["image"])  # type: ignore[arg-type]
    alone.close()
    for name in cameras:
        assert first[name].std() > 5 and not np.array_equal(first[name], moved[name]), name
    assert len({image.tobytes() for image in first.values()}) == len(cameras) + 1
    if "corner2" in cameras:
        other = make(env_id, camera="corner2", image_size=32)
        assert np.array_equal(other.reset(seed=1)[0]["image"], first["corner2"])
        other.close()


def test_the_kitchens_joints_and_the_hand_of_metaworld() -> None:
    from moto_pl.envs.kitchen import KitchenEnv
    from moto_pl.envs.metaworld import MetaWorldEnv

    kitchen = KitchenEnv(observe=("image", "joints"), image_size=16)
    assert kitchen.observation_space["joints"] == spaces.Box(-np.inf, np.inf, (9,), np.float64)
    kitchen.start(0)
    assert np.array_equal(kitchen.vector("joints"), kitchen.state[:9])
    kitchen.close()
    robot = MetaWorldEnv("reach", observe=("image", "hand"), image_size=16)
    robot.start(0)
    hand, begun = robot.vector("hand"), robot.state
    assert np.array_equal(hand, begun[:4]) and 0 <= hand[3] <= 1
    robot._simulate(np.array([1.0, 0.0, 0.0, 1.0]))
    assert robot.vector("hand")[0] > hand[0] and np.array_equal(hand, begun[:4])
    robot.close()
