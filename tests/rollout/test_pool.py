import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from moto_pl.envs import rendering
from moto_pl.errors import SettingError
from moto_pl.rollout import pool as pools
from moto_pl.rollout.pool import EnvPool, WorkerRestarted
from moto_pl.threads import ONE_THREAD

REACH = "moto_pl/Reach-v0"
MISBEHAVING = "misbehaving:moto_pl_test/Misbehaving-v0"


def episode(pool: EnvPool, seeds: list[int], steps: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, rewards, truncated = [pool.reset(seeds)], [], []
    for step in range(steps):
        actions = np.stack([np.random.default_rng([seed, step]).uniform(-1, 1, 2) for seed in seeds])
        image, reward, _, stop, infos = pool.step(actions.astype(np.float32))
        images.append(image)
        rewards.append(reward)
        truncated.append(stop)
        assert [info["success"] for info in infos] == (reward > 0).tolist()
    return np.stack(images, 1), np.stack(rewards, 1), np.stack(truncated, 1)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_workers_give_what_one_environment_in_this_process_gives():
    with EnvPool(REACH, {"image_size": 32}, 0) as pool:
        one = [episode(pool, [seed]) for seed in (11, 12)]
        assert pool.image_size == 32 and pool.action_space.shape == (2,)
    with EnvPool(REACH, {"image_size": 32}, 2) as pool:
        assert pool.image_size == 32 and pool.action_space.shape == (2,)
        episode(pool, [3, 4])  # history must not matter
        two = episode(pool, [11, 12])
        only_first = episode(pool, [12])
    for part in range(3):
        np.testing.assert_array_equal(two[part], np.concatenate([one[0][part], one[1][part]]))
        np.testing.assert_array_equal(only_first[part], one[1][part])
    assert not np.array_equal(two[0][0], two[0][1])


def test_returned_images_are_copies():
    with EnvPool(REACH, {}, 1) as pool:
        first = pool.reset([1])
        kept = first.copy()
        pool.step(np.ones((1, 2), np.float32))
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_ended_episode_repeats_its_last_frame_without_reward(workers):
    with EnvPool(REACH, {"episode_steps": 3}, workers) as pool:
        images, rewards, truncated = episode(pool, [5], steps=5)
        assert truncated[0].tolist() == [False, False, True, True, True]
        assert rewards[0, 3:].tolist() == [0, 0]
        np.testing.assert_array_equal(images[0, 3], images[0, 5])
        assert pool.reset([6]).shape == (1, 64, 64, 3)
        assert not pool.step(np.zeros((1, 2), np.float32))[3][0]


@pytest.mark.parametrize(("what", "reason"), [("hang", "no answer within 1"), ("die", "exited with status 7")])
def test_a_lost_worker_is_replaced_and_the_episode_can_be_replayed(what, reason, tmp_path):
    with EnvPool(REACH, {}, 0) as pool:
        expected = [episode(pool, [seed]) for seed in (1, 2)]
    with EnvPool(MISBEHAVING, {"what": what, "once": str(tmp_path / "done")}, 2, timeout_s=1.0) as pool:
        before = [worker.process.pid for worker in pool._workers]
        with pytest.raises(WorkerRestarted, match=reason) as caught:
            episode(pool, [1, 2])
        after = [worker.process.pid for worker in pool._workers]
        assert after[caught.value.index] != before[caught.value.index]
        assert not alive(before[caught.value.index])
        with pytest.raises(RuntimeError, match="reset"):
            pool.step(np.zeros((2, 2), np.float32))
        replayed = episode(pool, [1, 2])
    np.testing.assert_array_equal(replayed[0], np.concatenate([expected[0][0], expected[1][0]]))


def test_a_worker_has_one_thread(monkeypatch):
    """Whatever the learner has."""
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "3")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "envs"))
    with EnvPool("busy:moto_pl_test/Busy-v0", {}, 2) as pool:
        pool.reset([0, 1])
        assert pool.step(np.zeros((2, 2), np.float32))[1].tolist() == [1.0, 1.0]
        for worker in pool._workers:
            variables = dict(
                entry.split("=", 1)
                for entry in Path(f"/proc/{worker.process.pid}/environ").read_text().split("\0")[:-1]
            )
            assert {name: variables[name] for name in ONE_THREAD} == ONE_THREAD


def test_a_killed_worker_is_replaced():
    with EnvPool(REACH, {}, 2) as pool:
        pool.reset([1, 2])
        os.kill(pool._workers[1].process.pid, signal.SIGKILL)
        with pytest.raises(WorkerRestarted, match="worker 1 died of signal 9") as caught:
            pool.step(np.zeros((2, 2), np.float32))
        assert caught.value.index == 1
        assert pool.reset([1, 2]).shape == (2, 64, 64, 3)


def test_a_worker_lost_at_every_replay_ends_the_run():
    with EnvPool(MISBEHAVING, {"what": "die"}, 1) as pool:
        for _ in range(3):
            with pytest.raises(WorkerRestarted):
                episode(pool, [1])
        with pytest.raises(SettingError, match="4 times in a row.*worker 0, exited with status 7"):
            episode(pool, [1])


def test_whole_episodes_in_between_are_not_in_a_row(tmp_path):
    with EnvPool(REACH, {"episode_steps": 6}, 1) as pool:
        for _ in range(5):
            pool.reset([1])
            os.kill(pool._workers[0].process.pid, signal.SIGKILL)
            with pytest.raises(WorkerRestarted):
                pool.step(np.zeros((1, 2), np.float32))
            episode(pool, [1])


def test_errors_travel_back_with_their_message():
    with pytest.raises(SettingError, match="image_size: found 3"):
        EnvPool(REACH, {"image_size": 3}, 2)
    with pytest.raises(SettingError, match="env_id.*Did you mean moto_pl/Reach-v0"):
        EnvPool("moto_pl/Raech-v0", {}, 1)
    with EnvPool(MISBEHAVING, {"what": "raise"}, 2) as pool:
        with pytest.raises(SettingError, match=r"Misbehaving-v0 \(environment worker 0\).*the gripper fell off"):
            episode(pool, [1, 2])
        assert pool.reset([1, 2]).shape == (2, 64, 64, 3), "a worker outlives an exception"


def test_a_worker_that_dies_while_it_starts_is_an_error():
    with pytest.raises(SettingError, match="worker exited with status 3 while it started"):
        EnvPool(MISBEHAVING, {"what": "die at start"}, 1)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_leave_signals_to_the_parent(signal_number):
    with EnvPool(REACH, {}, 1) as pool:
        pool.reset([1])
        os.kill(pool._workers[0].process.pid, signal_number)
        time.sleep(0.1)
        assert pool.step(np.zeros((1, 2), np.float32))[0].shape == (1, 64, 64, 3)


def test_closing_ends_the_processes():
    pool = EnvPool(REACH, {}, 2)
    pids = [worker.process.pid for worker in pool._workers]
    assert all(map(alive, pids))
    pool.close()
    pool.close()
    assert not any(map(alive, pids))


@pytest.mark.parametrize("busy", [False, True])
def test_no_worker_outlives_a_killed_parent(busy):
    script = f"""
import sys, time, threading
sys.path[:] = {[path or os.getcwd() for path in sys.path]!r}
import numpy as np
from moto_pl.envs import rendering
from moto_pl.rollout import pool as pools
from moto_pl.rollout.pool import EnvPool
pool = EnvPool({MISBEHAVING!r}, {{"what": "hang"}}, 2)
pool.reset([1, 2])
pool.step(np.zeros((2, 2), np.float32))
if {busy}:
    threading.Thread(target=pool.step, args=(np.zeros((2, 2), np.float32),), daemon=True).start()
    time.sleep(0.5)
print(*[worker.process.pid for worker in pool._workers], flush=True)
time.sleep(3600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not any(map(alive, pids)))


def test_arguments_out_of_range():
    with pytest.raises(SettingError, match="num_workers"):
        EnvPool(REACH, {}, -1)
    with pytest.raises(SettingError, match="timeout_s"):
        EnvPool(REACH, {}, 0, timeout_s=0)
    with pytest.raises(SettingError, match="image"):
        EnvPool("CartPole-v1", {}, 0)
    with EnvPool(REACH, {}, 0) as pool:
        with pytest.raises(SettingError, match="seeds"):
            pool.reset([1, 2])
        pool.reset([1])
        with pytest.raises(SettingError, match="actions"):
            pool.step(np.zeros((2, 2), np.float32))


def test_workers_that_keep_dying_are_replaced_by_ones_that_draw_in_software(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(pools, "software_fallback", lambda backend: "osmesa")
    with EnvPool(MISBEHAVING, {"what": "die with egl", "image_size": 16}, 1) as pool:
        for expected in (0, 1):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                with pytest.raises(WorkerRestarted):
                    episode(pool, [1])
            assert sum("their replacements use osmesa" in str(one.message) for one in said) == expected
        episode(pool, [1])  # no longer with EGL, and lives


def test_only_egl_has_a_software_fallback(monkeypatch):
    monkeypatch.setattr(rendering, "probe", lambda backend: None)
    assert [rendering.software_fallback(name) for name in ("egl", "osmesa", "glfw", "")] == [
        "osmesa",
        "osmesa",
        "glfw",
        "",
    ]
    monkeypatch.setattr(rendering, "probe", lambda backend: "not installed")
    assert rendering.software_fallback("egl") == "egl"


@pytest.mark.parametrize("workers", [0, 1])
def test_other_actions_are_refused_by_name(workers):
    with pytest.raises(SettingError, match=r"Discrete\(5\).*flat Box"):
        EnvPool("misbehaving:moto_pl_test/Discrete-v0", {}, workers)
