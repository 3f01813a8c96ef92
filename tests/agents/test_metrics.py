import numpy as np
import pytest

from moto_pl.agents.metrics import EpisodeMetrics
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
    assert set(metrics.compute()) == {"return", "success", "length"}


@pytest.mark.parametrize("completed", [None, [[1], [1]]])
def test_an_environment_that_does_not_report_its_objects(completed):
    with pytest.raises(SettingError, match="completed objects. Expected 2"):
        EpisodeMetrics(["kettle", "microwave"]).update([episode([0, 1], completed)])
