"""Environments that are not what they should be: one line says which, what was found, what was wanted, what to do."""

import warnings

import numpy as np
import pytest

from moto_pl.envs.checks import EpisodeLimit, as_flag
from moto_pl.errors import EnvironmentRaised, SettingError
from moto_pl.rollout import pool as pools
from moto_pl.rollout.pool import EnvPool

ODD = "misbehaving:moto_pl_test/Odd-v0"
ENDLESS = "misbehaving:moto_pl_test/Endless-v0"
WRAPPER = r"gymnasium\.wrappers\.TransformObservation"
DECLARED = r"where it declares uint8 \(64, 64, 3\)"


def line(found: SettingError) -> str:
    text = str(found)
    assert "\n" not in text and text.startswith(f"data.env: found {ODD}")
    return text


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (
            "declares float",
            rf"'image' as float32 \(64, 64, 3\), where uint8 \(height, width, 3\).*{WRAPPER}.*255",
        ),
        ("declares channels first", rf"'image' as uint8 \(3, 64, 64\), where uint8.*{WRAPPER}.*transpose\(1, 2, 0\)"),
        ("declares one channel", rf"'image' as uint8 \(64, 64, 1\), where uint8.*{WRAPPER}.*repeat\(3, axis=2\)"),
        ("declares 0 and 1", rf"values of its observation 'image' from 0 to 1, where 255 is white.*{WRAPPER}.*255"),
        ("declares another key", rf"observes 'front', 'wrist', and no 'image'.*{WRAPPER}"),
        ("declares no Dict", rf"observes uint8 \(64, 64, 3\), not a Dict with a key 'image'.*{WRAPPER}"),
        ("takes integers", r"actions Box\(-1, 1, \(2,\), int8\), where policies act in \[-1, 1\]"),
        ("takes anything", r"actions Box\(-inf, inf.*Declare the Box.*data\.action_scale: percentile"),
    ],
)
def test_what_an_environment_declares(what, found):
    with pytest.raises(SettingError, match=found) as caught:
        EnvPool(ODD, {"what": what}, 0)
    line(caught.value)


RETURNED = [
    ("float", rf"'image' as float32 \(64, 64, 3\) with values from 0.* to .*, {DECLARED}.*{WRAPPER}"),
    ("nan", rf"'image' as float32 \(64, 64, 3\) with NaN.*, {DECLARED}.*{WRAPPER}"),
    ("int16", rf"'image' as int16 \(64, 64, 3\) with values from .*, {DECLARED}.*{WRAPPER}.*astype\('uint8'\)"),
    ("one channel", rf"'image' as uint8 \(64, 64, 1\) .*, {DECLARED}.*{WRAPPER}.*repeat\(3"),
    ("channels first", rf"'image' as uint8 \(3, 64, 64\) .*, {DECLARED}.*{WRAPPER}.*transpose\(1, 2, 0\)"),
    ("another size", rf"'image' as uint8 \(84, 84, 3\) .*, {DECLARED}"),
    ("list", rf"'image' as list .*, {DECLARED}"),
    ("None", rf"observes 'image' .*, and no 'image', {DECLARED}"),
    ("no key", rf"observes 'front' .*, and no 'image', {DECLARED}"),
]


@pytest.mark.parametrize(("what", "found"), RETURNED)
def test_frames_that_are_not_what_was_declared(what, found):
    for at, moment in ((0, "at reset"), (1, "in a step")):
        with pytest.raises(SettingError, match=f"{moment}.*{DECLARED}") as caught:
            EnvPool(ODD, {"what": what, "at": at}, 0)
        assert np.all([part in line(caught.value) for part in (moment, "declares")])
        with pytest.raises(SettingError, match=found):
            raise caught.value


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("four values", "returned 4 values from step, where .*info.* is wanted"),
        ("one value from reset", "returned one dict from reset"),
        ("None for info", "returned None as a step's info"),
        ("text reward", r"returned the reward '1\.0'\. Return one finite number"),
        ("two rewards", r"returned the reward float64 \(2,\): \[1\.0, 1\.0\]"),
        ("nan reward", "returned the reward nan"),
        ("vast reward", r"returned the reward 1e\+300"),
        ("text terminated", "returned terminated 'False'"),
        ("nan success", r"returned info\['success'\] nan"),
        ("text success", r"returned info\['success'\] 'False'"),
        ("two successes", r"returned info\['success'\] bool \(2,\): \[True, False\]"),
        ("ragged", r"returned info\['completed'\] list \[\[True\], \[True, False\]\]"),
    ],
)
def test_results_that_mean_nothing(what, found):
    for count, place in ((0, ""), (1, r" \(environment worker 0\)")):
        with pytest.raises(SettingError, match=rf"Odd-v0{place}, which {found}") as caught:
            EnvPool(ODD, {"what": what}, count)
        line(caught.value)


@pytest.mark.parametrize("count", [0, 2])
def test_what_goes_wrong_later_is_noticed_then(count):
    pool = EnvPool(ODD, {"what": "float", "at": 3}, count)
    with pool:
        pool.reset([1, 2][: pool.capacity])
        actions = np.zeros((pool.capacity, 2), np.float32)
        for _ in range(2):
            pool.step(actions)
        with pytest.raises(SettingError, match=f"float32.*in a step, {DECLARED}"):
            pool.step(actions)


def test_flags_have_one_length():
    with EnvPool(ODD, {"what": "fewer flags"}, 0) as pool:
        pool.reset([1])
        pool.step(np.zeros((1, 2), np.float32))
        with pytest.raises(SettingError, match=r"info\['completed'\] list .*, after 4 flags before"):
            pool.step(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("success [1]", {"success": True}),
        ("is_success", {"success": True, "is_success": True}),
        ("lock", {"success": False, "note": "kept"}),
        ("reward [1]", {"success": False}),
    ],
)
def test_what_is_unambiguous_is_taken(what, expected, count):
    with EnvPool(ODD, {"what": what}, count) as pool:
        pool.reset([1])
        _, reward, _, _, (info,) = pool.step(np.zeros((1, 2), np.float32))
    assert info == expected and type(info["success"]) is bool
    assert reward.tolist() == [float(what == "reward [1]")]


def test_flags_of_objects_are_bools():
    with EnvPool(ODD, {"what": "flags"}, 1) as pool:
        pool.reset([1])
        flags = pool.step(np.zeros((1, 2), np.float32))[4][0]["completed"]
    assert flags.dtype == bool and flags.tolist() == [True, False]


@pytest.mark.parametrize("count", [0, 1])
def test_what_it_raises_is_its_own(count):
    with pytest.raises(
        EnvironmentRaised, match="ValueError: the simulation diverged in step 0 of an episode"
    ) as caught:
        EnvPool(ODD, {"what": "raises"}, count)
    line(caught.value)
    details = caught.value.details
    assert "in step\n    return self._fail()" in details and details.rstrip().endswith("diverged")
    assert "pool.py" not in details and "checks.py" not in details and "site-packages/gymnasium" not in details
    with pytest.raises(EnvironmentRaised, match="ValueError: no such robot when it was made"):
        EnvPool(ODD, {"what": "raises when made"}, count)
    with pytest.raises(SettingError, match="nowhere_to_be_found:A-v0.*raised ModuleNotFoundError"):
        EnvPool("nowhere_to_be_found:A-v0", {}, count)


def test_an_error_on_closing_does_not_fail_the_work():
    pool = EnvPool(ODD, {"what": "raises when closed"}, 0)
    with pytest.warns(UserWarning, match="Odd-v0 raised ValueError: the window is gone when it was closed"):
        pool.close()


@pytest.mark.parametrize("count", [0, 1])
def test_images_of_another_size_are_refused_as_images(count):
    with pytest.raises(SettingError, match=r"Reach-v0, whose.*uint8 \(84, 84, 3\), where uint8 \(64, 64, 3\).*resize"):
        EnvPool("moto_pl/Reach-v0", {"image_size": 84}, count, image_size=64)


def test_no_room_for_the_frames(monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pools.os, "posix_fallocate", full)
    with pytest.raises(SettingError, match=r"data\.env_workers: found 1, whose frames take 12288 bytes of .*shm-size"):
        EnvPool("moto_pl/Reach-v0", {}, 1)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize(
    ("env", "limit", "steps"),
    [
        (ENDLESS, EpisodeLimit(5), 5),
        (ENDLESS, EpisodeLimit(None, 3), 12),
        (ENDLESS, EpisodeLimit(20, 3), 20),
        ("misbehaving:moto_pl_test/OddLimited-v0", EpisodeLimit(None, 1), 7),
        ("moto_pl/Reach-v0", EpisodeLimit(None, 3), 30),
        ("moto_pl/Reach-v0", EpisodeLimit(10, 50), 10),
    ],
)
def test_an_endless_episode_is_cut_and_said_once(env, limit, steps, count):
    with EnvPool(env, {}, count, limit=limit) as pool, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            pool.reset([1, 2][: pool.capacity])
            for step in range(steps):
                _, _, terminated, truncated, _ = pool.step(np.zeros((pool.capacity, 2), np.float32))
                assert not terminated.any() and truncated.all() == truncated.any() == (step == steps - 1)
    cut = [str(one.message) for one in said if "data.max_episode_steps" in str(one.message)]
    assert len(cut) == (env == ENDLESS or limit.steps == 10)
    assert all(f"within {steps} steps" in message for message in cut)


def test_the_limit_where_nothing_says():
    with EnvPool(ENDLESS, {}, 0) as pool:
        assert pool.max_episode_steps == 10_000


def test_flags():
    assert [as_flag(value) for value in (True, 1, 0.5, np.bool_(False), [True], np.zeros((1, 1)))] == [
        *(True, True, True),
        *(False, True, False),
    ]
    assert all(as_flag(value) is None for value in (None, "True", np.nan, [True, False], [[1], [1, 2]], {"a": 1}, b"1"))
