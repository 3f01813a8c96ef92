"""Who has how many threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import warm
from moto_pl import threads
from moto_pl.threads import ONE_THREAD, Shared, cores, share_cores
from runs import command, environment


class Machine:
    """Six cores, with two hardware threads each or not, and a process whose user has said nothing yet."""

    threads = 6

    def set(self, number: int) -> None:
        self.threads = number


@pytest.fixture()
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000, 1006)))  # of which /sys knows nothing
    monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads)
    monkeypatch.setattr(torch, "set_num_threads", made.set)
    monkeypatch.setattr(threads, "_SAID", None)
    monkeypatch.setattr(threads, "_given", None)
    monkeypatch.setattr(threads, "busy_cores", lambda: 0)
    return made


def test_a_learner_has_the_cores_that_nobody_needs_while_it_learns(machine: Machine) -> None:
    shared = share_cores(1, 2)  # its environments wait while it learns
    assert machine.threads == 6 and shared == Shared(6, None, 6, 1, 2)
    assert str(shared) == "threads: 6 for the learner, 1 for each of its 2 environment process(es), on 6 core(s)"
    assert share_cores(1, 3, overlap=True) == Shared(5, None, 6, 1, 3)


def test_what_other_programs_do_is_said_and_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "busy_cores", lambda: 4)
    shared = share_cores(1, 2)
    assert shared.threads == machine.threads == 6
    said = "on 6 core(s), 4 of them busy with other work: OMP_NUM_THREADS=2 would not wait for them"
    assert str(shared).endswith(said)
    assert "busy" not in str(share_cores(2, 2))  # ranks do not take one another for other programs


def test_busy_cores_are_those_at_work() -> None:
    # Two processes that count on one core: it is busy, and no other is looked at.
    code = "import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    core = min(os.sched_getaffinity(0))
    look = (
        f"import os; os.sched_setaffinity(0, [{core}]); from moto_pl.threads import busy_cores; print(busy_cores(1.0))"
    )
    busy = [subprocess.Popen([sys.executable, "-c", code.format(core=core)]) for _ in range(2)]
    try:
        done = subprocess.run([sys.executable, "-c", look], env=environment(), capture_output=True, text=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert done.stdout.strip() == "1", done.stderr


def test_ranks_of_one_machine_share_its_cores(machine: Machine) -> None:
    shared = share_cores(2, 1)
    assert machine.threads == 3 and shared == Shared(3, None, 6, 2, 1)
    assert str(shared).startswith("threads: 3 for each of 2 learners, 1 for each of its 1 environment")
    share_cores(7, 4)
    assert machine.threads == 1  # never none


def test_again_in_the_same_process_is_no_choice_of_the_users(machine: Machine) -> None:
    share_cores(1, 3, overlap=True)
    assert share_cores(1, 0) == Shared(6, None, 6, 1, 0)


def test_torchs_default_is_no_choice_of_the_users(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: f"{int(path.parts[-3][3:]) // 2}")  # siblings are neighbours
    machine.threads = 3
    assert share_cores(1, 2) == Shared(6, None, 6, 1, 2)


def test_lightnings_number_is_no_choice_of_the_users(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under DDP it sets each rank's, and writes it into the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.threads = 3
    assert share_cores(2, 1, overlap=True) == Shared(2, None, 6, 2, 1)


def test_set_num_threads_wins(machine: Machine) -> None:
    machine.threads = 5
    shared = share_cores(1, 2)
    assert machine.threads == 5 and shared == Shared(5, "torch.set_num_threads", 6, 1, 2)
    assert str(shared).startswith("threads: 5 for the learner (as torch.set_num_threads says), 1 for")


def test_a_variable_wins(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SAID", "OMP_NUM_THREADS")
    shared = share_cores(2, 2)
    assert machine.threads == 6 and shared == Shared(6, "OMP_NUM_THREADS", 6, 2, 2)


def test_cores_are_those_that_this_process_may_run_on() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from moto_pl.threads import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "variable"), [(1, ""), (1, "OMP_NUM_THREADS"), (1, "MKL_NUM_THREADS"), (2, "")])
def test_a_run_says_it(ranks: int, variable: str, reach_dataset: Path, tmp_path: Path) -> None:
    short = ("--data.offline_steps", "1", "--data.online_steps", "0", "--data.eval_episodes", "0")
    data = ("--data.dataset", str(reach_dataset), "--data.build_missing", "false")
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp") if ranks == 2 else ()
    env = {name: value for name, value in environment().items() if name not in ONE_THREAD}
    warm.server(environment())  # has one of these environments; in the others a run starts cold
    words = command(tmp_path / "run", *short, *data, *ddp)[2:]
    done = warm.run(words, env | ({variable: "1"} if variable else {}), timeout=600)
    assert done.returncode == 0, done.stderr
    (said,) = re.findall("^threads: .*", done.stdout + done.stderr, re.MULTILINE)
    number = 1 if variable else max(1, cores() // ranks)
    learners = "the learner" if ranks == 1 else "each of 2 learners"
    why = f" (as {variable} says)" if variable else ""
    assert said.startswith(f"threads: {number} for {learners}{why}, on {cores()} core(s)")
