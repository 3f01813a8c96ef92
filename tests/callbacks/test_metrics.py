import dataclasses

import numpy as np
import pytest

from moto_pl.callbacks.metrics import EpisodeMetrics
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode


def episode(rewards: list[float], completed: list[list[int]] | None = None) -> Episode:
    reward = np.array(rewards, np.float32)
    return Episode(
        image=np.zeros((len(rewards) + 1, 4, 4, 3), np.uint8),
        action=np.zeros((len(rewards), 2), np.float32),
        reward=reward,
        terminated=False,
        truncated=True,
        success=reward >= 2,
        extras={} if completed is None else {"completed": np.array(completed, bool)},
    )


def test_each_object_counts_once_an_episode_however_long_it_stayed():
    metrics = EpisodeMetrics(["kettle", "light switch"])
    metrics.update([episode([0, 1, 1], [[0, 0], [1, 0], [1, 0]]), episode([1, 0, 1], [[1, 0], [0, 0], [0, 1]])])
    metrics.update([episode([0, 2], [[0, 0], [1, 1]])])
    found = {name: round(float(value), 4) for name, value in metrics.compute().items()}
    assert found == {
        "return": 2.0,
        "success": 0.3333,
        "success_last": 0.3333,
        "success_steps": 0.3333,
        "length": 2.6667,
        "objects": 1.6667,
        "object/kettle": 1.0,
        "object/light_switch": 0.6667,
    }
    metrics.reset()
    assert metrics.compute() == {}


def test_a_task_without_objects_has_no_such_metrics():
    metrics = EpisodeMetrics()
    metrics.update([episode([1, 2])])
    assert set(metrics.compute()) == {"return", "success", "success_last", "success_steps", "length"}


def test_passing_through_success_is_not_staying_there():
    """Four episodes: in success in the middle, from the middle to the end, at the end alone, and never."""
    metrics = EpisodeMetrics()
    metrics.update([episode([0, 2, 2, 2, 0]), episode([0, 2, 2, 2, 2]), episode([0, 2]), episode([0, 1])])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert (found["success"], found["success_last"], found["success_steps"]) == (0.75, 0.5, (3 + 4 + 1 + 0) / 4)
    assert found["length"] == (5 + 5 + 2 + 2) / 4


def test_the_last_step_is_the_one_that_ended_the_episode():
    """An episode that terminates early is judged by its own last step, not by the longest one's."""
    early = dataclasses.replace(episode([0, 0, 2]), terminated=True, truncated=False)
    assert early.success_last and early.success_steps == 1
    failed = dataclasses.replace(episode([0, 2, 0]), terminated=True, truncated=False)
    assert failed.succeeded and not failed.success_last and failed.success_steps == 1
    metrics = EpisodeMetrics()
    metrics.update([early, failed, episode([0] * 50)])
    assert float(metrics.compute()["success_last"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("completed", [None, [[1], [1]]])
def test_an_environment_that_does_not_report_its_objects(completed):
    with pytest.raises(SettingError, match="completed objects. Expected 2"):
        EpisodeMetrics(["kettle", "microwave"]).update([episode([0, 1], completed)])
