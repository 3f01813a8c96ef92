import pickle
from typing import Any

import numpy as np
import pytest

from moto_pl.errors import SettingError
from moto_pl.replay import Episode, rows

STEPS = 4


def fields(**changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = dict(
        image=np.arange((STEPS + 1) * 12, dtype=np.uint8).reshape(STEPS + 1, 2, 2, 3),
        action=np.linspace(-1, 1, STEPS * 2, dtype=np.float32).reshape(STEPS, 2),
        reward=np.arange(STEPS, dtype=np.float32),
        terminated=True,
        truncated=False,
        success=np.array([False, False, True, False]),
        extras={"completed": np.zeros((STEPS, 3), bool)},
        info={"seed": 1, "env_id": "x", "share": 0.5},
    )
    return {**given, **changed}


def test_what_it_says_of_itself() -> None:
    episode = Episode(**fields())
    assert (episode.length, episode.total_reward, episode.succeeded) == (4, 6.0, True)
    assert not Episode(**fields(success=np.zeros(STEPS, bool))).succeeded


def test_rows_hold_the_action_that_led_to_the_frame() -> None:
    episode = Episode(**fields())
    learner = rows(episode)
    assert np.array_equal(learner.action, np.concatenate([[[0, 0]], episode.action]))
    assert learner.reward.tolist() == [0, 0, 1, 2, 3]
    assert learner.is_first.tolist() == [True, False, False, False, False]
    assert learner.is_terminal.tolist() == [False, False, False, False, True]
    assert np.array_equal(learner.image, np.moveaxis(episode.image, -1, 1)) and learner.image.flags.c_contiguous
    assert {a.dtype.name for a in learner if a is not None} == {"uint8", "float32", "bool"}
    vector = np.arange(2 * STEPS + 2, dtype=np.float32).reshape(-1, 2)
    assert learner.vector is None and rows(Episode(**fields(), vector=vector)).vector is vector
    assert not rows(Episode(**fields(terminated=False))).is_terminal.any()


def changed_action(value: float) -> np.ndarray:
    action = fields()["action"].copy()
    action[2, 1] = value
    return action


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vector", {"vector": np.zeros((STEPS, 2), np.float32)}),
        ("vector", {"vector": np.zeros((STEPS + 1, 2))}),
        ("vector", {"vector": np.zeros(STEPS + 1, np.float32)}),
        ("vector", {"vector": np.full((STEPS + 1, 2), np.inf, np.float32)}),
        ("image", {"image": np.zeros((STEPS, 2, 2, 3), np.uint8)[:1]}),
        ("image", {"image": np.zeros((STEPS + 1, 2, 2, 3), np.float32)}),
        ("image", {"image": np.zeros((STEPS + 1, 3, 2, 2), np.uint8)}),
        ("image", {"image": np.zeros((STEPS + 1, 0, 2, 3), np.uint8)}),
        ("image", {"image": [[0]]}),
        ("action", {"action": np.zeros((STEPS + 1, 2), np.float32)}),
        ("action", {"action": np.zeros((STEPS, 2), np.float64)}),
        ("action", {"action": np.zeros(STEPS, np.float32)}),
        ("action", {"action": changed_action(1.001)}),
        ("action", {"action": changed_action(float("nan"))}),
        ("reward", {"reward": np.array([0, np.nan, 0, 0], np.float32)}),
        ("reward", {"reward": np.array([0, np.inf, 0, 0], np.float32)}),
        ("reward", {"reward": np.zeros((STEPS, 1), np.float32)}),
        ("success", {"success": np.zeros(STEPS, np.uint8)}),
        ("success", {"success": np.zeros(STEPS + 1, bool)}),
        ("terminated", {"terminated": 1}),
        ("truncated", {"truncated": None}),
        ("extras", {"extras": {"completed": np.zeros(STEPS - 1, bool)}}),
        ("extras", {"extras": {"completed": np.array(True)}}),
        ("extras", {"extras": {"completed": np.full(STEPS, "x")}}),
        ("extras", {"extras": {"completed": np.full(STEPS, None)}}),
        ("extras", {"extras": {"../x": np.zeros(STEPS)}}),
        ("extras", {"extras": {"state": np.full(STEPS, np.nan)}}),
        ("info", {"info": {"seed": [1]}}),
        ("info", {"info": {"share": float("nan")}}),
        ("info", {"info": {1: 1}}),
    ],
)
def test_refuses(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=rf"^episode\.{name}") as caught:
        Episode(**fields(**change))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_names_the_step_and_the_value() -> None:
    with pytest.raises(SettingError, match=r"1\.5 at step 2"):
        Episode(**fields(action=changed_action(1.5)))
