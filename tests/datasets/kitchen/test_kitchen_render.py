import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kitchen_datasets import record_states, with_in_place, write_minari

from moto_pl.cli import main
from moto_pl.datasets.kitchen import render
from moto_pl.datasets.kitchen.render import Job, render_part, render_states
from moto_pl.datasets.minari_io import list_datasets, open_dataset
from moto_pl.envs.kitchen import KitchenEnv
from moto_pl.errors import SettingError

pytestmark = pytest.mark.usefixtures("gl")
SMALL = {"image_size": 16, "workers": 1}


@pytest.fixture(scope="module")
def recorded():
    return record_states(episodes=3, steps=5, noise=0.0)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def source(tmp_path, recorded):
    return write_minari(tmp_path / "states", recorded, "D4RL/kitchen/tiny-v2")


def in_turn(function, jobs, *_):
    return ((i, function(job)) for i, job in enumerate(jobs))


@pytest.fixture
def in_this_process(monkeypatch):
    """Renders without processes, which take seconds to start."""
    monkeypatch.setattr(render, "in_processes", in_turn)


def parts(root: Path) -> list[Path]:
    return sorted(root.rglob(".*rendering*/episode_*"))


def test_states_become_pixels_with_the_reward_of_the_task(tmp_path, recorded, root, capsys):
    changed = [with_in_place(recorded[0], "bottom burner", 2), with_in_place(recorded[1], "slide cabinet", 4)]
    # The jump of an object is no transition of the simulator, but the robot's joints are reproduced all the same.
    source = write_minari(tmp_path / "states", changed, "D4RL/kitchen/tiny-v2")
    assert main(["data", "render", str(source), "--task", "partial", "--image-size", "16"]) == 0
    out = capsys.readouterr().out
    assert "100.0% of 10 recorded transitions are reproduced within 0.02 rad" in out
    assert list_datasets() == ["moto_pl/kitchen/partial-rendered-v0"]
    assert not list(root.rglob(".*")), "nothing but the dataset is left"
    reader = open_dataset("kitchen/partial-rendered")
    burner, slide = reader[0], reader[1]
    np.testing.assert_array_equal(burner.reward, [0, 1, 1, 1, 1])
    np.testing.assert_array_equal(slide.reward, np.zeros(5))  # not of this task
    np.testing.assert_array_equal(slide.extras["in_place"][:, 5], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(burner.extras["completed"][:, 2], [0, 1, 1, 1, 1])
    assert not burner.success.any() and burner.truncated
    np.testing.assert_allclose(burner.action, recorded[0]["action"], atol=1e-6)
    own = reader.own
    assert own["env_id"] == "moto_pl/Kitchen-partial-v0" and own["verification"]["share"] == 1.0
    env = KitchenEnv(image_size=16)
    env.set_state(changed[0]["position"][3], changed[0]["velocity"][3])
    assert np.abs(env.render().astype(int) - burner.image[3]).max() <= 1
    env.close()


def test_a_subset_of_objects(source, in_this_process):
    path = render_states(source, objects=["hinge_cabinet"], **SMALL).path
    assert open_dataset(path)[0].extras["completed"].shape == (5, 1)
    assert open_dataset(path).own["env_kwargs"]["objects"] == ["hinge cabinet"]


def test_a_killed_render_goes_on_where_it_was(tmp_path, recorded, root):
    many = write_minari(tmp_path / "states", recorded * 6, "D4RL/kitchen/tiny-v2")
    command = [sys.executable, "-m", "moto_pl.cli", "data", "render", str(many), "--workers", "1", "--image-size", "64"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(parts(root)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = [path for path in parts(root) if not path.name.startswith(".")]
    assert 2 <= len(done) < 18, "killed in the middle"
    assert list_datasets() == []
    with pytest.raises(SettingError, match="dataset"):
        open_dataset("kitchen/mixed-rendered")
    with pytest.raises(SettingError, match="no dataset at"):
        open_dataset(done[0].parent)
    damaged = done[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(SettingError, match="half rendered from another source or with other settings"):
        render_states(many, image_size=32, workers=1)
    rendered = render_states(many, image_size=64, workers=1)
    assert rendered.episodes == 18 and rendered.resumed == len(done) - 1
    assert not list(root.rglob(".*"))
    reader = open_dataset(rendered.path)
    np.testing.assert_array_equal(reader[0].image, reader[3].image)  # the same states
    assert not np.array_equal(reader[0].image, reader[1].image)


def test_of_two_at_once_the_second_is_refused(source, monkeypatch):
    """And leaves alone what the first is writing."""

    def in_the_middle(function, jobs, *_):
        half = Path(jobs[0].part).with_name(".episode_000000.npz.tmp")
        half.touch()
        monkeypatch.setattr(render, "in_processes", in_turn)
        with pytest.raises(SettingError, match="output: found .*rendering, in which another render is at work"):
            render_states(source, **SMALL)
        assert half.exists()
        return in_turn(function, jobs)

    monkeypatch.setattr(render, "in_processes", in_the_middle)
    assert len(open_dataset(render_states(source, **SMALL).path)) == 3


def test_the_first_episodes_only(source, in_this_process):
    assert len(open_dataset(render_states(source, episodes=2, **SMALL).path)) == 2


def test_states_of_another_simulator_are_refused(tmp_path, recorded, root):
    """The recorded actions do not lead to the recorded states: the error says how far off they are."""
    wrong = [{**episode, "action": -episode["action"]} for episode in recorded]
    source = write_minari(tmp_path / "states", wrong, "D4RL/kitchen/tiny-v2")
    with pytest.raises(SettingError, match=r"0.0% of 15 .* robot: median 0\.1.*--tolerance"):
        render_states(source, **SMALL)
    assert not root.exists() or not any(root.rglob("*"))


def test_a_larger_tolerance_accepts_them(tmp_path, recorded, in_this_process):
    wrong = [{**episode, "action": -episode["action"]} for episode in recorded]
    source = write_minari(tmp_path / "states", wrong, "D4RL/kitchen/tiny-v2")
    assert render_states(source, tolerance=1.0, **SMALL).verification.robot_median > 0.02


def test_a_bad_state_leaves_nothing_behind(tmp_path, recorded, root):
    for place, value in ((3, np.nan), (12, 1e9)):
        bad = [recorded[0], {**recorded[1], "observation": recorded[1]["observation"].copy()}]
        bad[1]["observation"][2, place] = value
        source = write_minari(tmp_path / f"states{place}", bad, "D4RL/kitchen/tiny-v2")
        with pytest.raises(SettingError, match="tiny-v2, episode 1.*of state 2. States must be finite"):
            render_states(source, **SMALL)
        assert not root.exists() or not any(root.rglob("*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "mixd"}, "task: found 'mixd'. Use one of mixed, partial, complete"),
        ({"objects": ["kettel"]}, "Did you mean kettle"),
        ({"workers": 0}, "workers"),
        ({"episodes": 0}, "episodes"),
        ({"render_quality": "best"}, "render_quality"),
        ({"image_size": 0}, "image_size"),
        ({"output": "no id"}, "output: found 'no id'"),
    ],
)
def test_bad_settings(source, root, settings, message):
    with pytest.raises(SettingError, match=message):
        render_states(source, **{**SMALL, **settings})
    assert not root.exists() or not any(root.rglob("*"))


def test_a_dataset_that_is_there_is_kept(source, in_this_process):
    render_states(source, **SMALL)
    with pytest.raises(SettingError, match="already there"):
        render_states(source, **SMALL)
    render_states(source, overwrite=True, **SMALL)


def test_a_part_is_whole_or_not_there(source, tmp_path, monkeypatch):
    """An episode that cannot be written to its end leaves no part that would count as done."""

    def fail(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        render_part(Job(str(source), 0, {"image_size": 16}, str(tmp_path / "episode_0.npz")))
    assert not (tmp_path / "episode_0.npz").exists()
