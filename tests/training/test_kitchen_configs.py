"""The kitchen's configurations: the paper's numbers, and the CPU-sized run in short."""

from pathlib import Path

import numpy as np
import pytest

from moto_pl.cli import main
from moto_pl.datasets.info import PAPER_KITCHEN
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.envs import KITCHEN_TASKS, kitchen_id
from moto_pl.envs.rendering import select_backend
from moto_pl.errors import SettingError
from moto_pl.evaluations import read_evaluations
from moto_pl.replay.episode import Episode
from moto_pl.report.page import write_report
from moto_pl.training.configs import config_path, settings_of


@pytest.mark.parametrize("task", ["mixed", "partial"])
def test_the_papers_settings(task: str) -> None:
    data = settings_of("--config", str(config_path(f"tasks/kitchen/{task}")))["data"]
    assert data["env"] == kitchen_id(task)
    assert (data["offline_steps"], data["updates_per_episode"], data["online_steps"]) == (10_000, 50, 66_300)
    assert data["online_steps"] / data["updates_per_episode"] == 1326
    assert data["build_options"] == {"episodes": PAPER_KITCHEN["trajectories"], "order": "canonical"}
    assert data["dataset"] == f"kitchen/{task}"


def demonstration(steps: int = 40) -> Episode:
    rng = np.random.default_rng(0)
    completed = np.zeros((steps, 4), bool)
    completed[20:, 0] = completed[30:, 1] = True
    return Episode(
        image=rng.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (steps, 9)).astype(np.float32),
        reward=completed.sum(1).astype(np.float32),
        terminated=False,
        truncated=True,
        success=completed.all(1),
        extras={"completed": completed},
    )


@pytest.mark.slow
def test_the_cpu_sized_run_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        select_backend()
    except SettingError as error:
        pytest.skip(f"no OpenGL: {error}")
    dataset = write_dataset(tmp_path / "demonstrations", [demonstration()] * 3, kitchen_id("mixed"))
    run = tmp_path / "run"
    arguments = [
        *("--config", str(config_path("tasks/kitchen/mixed")), "--size", "cpu", "--trainer.default_root_dir", str(run)),
        *("--data.dataset", str(dataset), "--data.build_missing", "false", "--data.build_options", "{}"),
        *("--data.env_options", '{"episode_steps": 34}', "--data.eval_episodes", "2"),
        *("--data.value_steps", "10"),  # rather than 300 frames beyond the time limit, each of which is drawn
        *("--data.offline_steps", "2", "--data.offline_round_steps", "2"),
        *("--data.online_steps", "2", "--data.updates_per_episode", "2"),
    ]
    assert main(["fit", *arguments]) == 0
    records = read_evaluations(run)
    assert [record["phase"] for record in records] == ["untrained", "pretrained", "final"]
    for record in records:
        assert record["objects"] == list(KITCHEN_TASKS["mixed"])
        assert np.array(record["completed"]).shape == (2, 4)
    names = {name for path in run.glob("csv/*/metrics.csv") for name in path.read_text().splitlines()[0].split(",")}
    assert {"eval/objects", "eval/object/light_switch", "online/objects", "online/object/kettle"} <= names
    page = write_report(run).read_text()
    assert "Objects completed" in page and "slide cabinet" in page
