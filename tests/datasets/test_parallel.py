import os
import time

import pytest
from job_functions import backend, job, threads

from moto_pl.datasets import parallel
from moto_pl.datasets.parallel import in_processes
from moto_pl.errors import SettingError
from moto_pl.threads import ONE_THREAD

pytestmark = pytest.mark.filterwarnings("ignore:a worker process")


@pytest.fixture(autouse=True)
def no_probing(monkeypatch):
    """These jobs draw nothing."""
    monkeypatch.setattr(parallel, "select_backend", lambda: "egl")
    monkeypatch.setattr(parallel, "software_fallback", lambda backend: "osmesa")


def test_every_job_is_done_once_in_processes_that_are_kept():
    results = dict(in_processes(job, [("", number) for number in range(6)], 2))
    assert {index: value for index, (value, _) in results.items()} == {i: 2 * i for i in range(6)}
    processes = {process for _, process in results.values()}
    assert len(processes) <= 2 and os.getpid() not in processes


def test_a_process_has_one_thread(monkeypatch):
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "3")
    assert list(in_processes(threads, [""], 1)) == [(0, (1, ONE_THREAD))]
    assert os.environ["OMP_NUM_THREADS"] == "3"  # this process is left alone


@pytest.mark.parametrize("what", ["hang", "die"])
def test_a_process_that_is_lost_is_replaced_and_its_job_done_again(tmp_path, what):
    jobs = [("", 1), (f"{what}:{tmp_path / 'once'}", 2), ("", 3)]
    with pytest.warns(UserWarning, match="done again with egl"):
        results = dict(in_processes(job, jobs, 1, timeout_s=4.0))
    assert [results[index][0] for index in range(3)] == [2, 4, 6]


def test_a_replacement_draws_in_software(tmp_path):
    flag = str(tmp_path / "died")
    assert list(in_processes(backend, [flag], 1)) == [(0, "osmesa")]  # having died twice
    assert list(in_processes(backend, [flag], 1)) == [(0, "egl")]


def test_a_job_that_always_kills_its_process_ends_the_work():
    began = time.monotonic()
    with pytest.raises(SettingError, match="3 processes lost over one job, the last ended with exit status 5.*doctor"):
        list(in_processes(job, [("die", 1)], 1))
    assert time.monotonic() - began < 60


def test_what_a_job_raises_is_raised():
    with pytest.raises(SettingError, match="kettle: found 7. Use another."):
        list(in_processes(job, [("refuse", 7)], 1))
    with pytest.raises(RuntimeError, match="no such kettle"):
        list(in_processes(job, [("raise", 7)], 1))


def test_no_workers():
    with pytest.raises(SettingError, match="workers"):
        list(in_processes(job, [("", 7)], 0))
