"""Warm starts are processes like others; tests/warm.py says what they are for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import warm
from runs import environment

Script = Callable[[str], list[str]]


@pytest.fixture(scope="module", autouse=True)
def own_server() -> Iterator[None]:
    """Servers of this file's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MOTO_TESTS_COLD", raising=False)
        patch.setenv("MOTO_TEST_A", "1")
        patch.setattr(warm, "_servers", servers := {"": warm.Server(environment())})
        yield
        for server in servers.values():
            server.close()


@pytest.fixture()
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A module that ``python -m`` finds in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> list[str]:
        (tmp_path / "warm_script.py").write_text(textwrap.dedent(code))
        return ["warm_script", "one", "two words"]

    return write


LOOK = """
    import json, os, signal, sys, threading
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))
    print(json.dumps({
        "argv": sys.argv[1:], "name": __name__, "spec": __spec__.name, "main": sys.modules["__main__"].__spec__.name,
        "directory": os.getcwd(), "path": sys.path, "fds": fds, "threads": len(os.listdir("/proc/self/task")),
        "environment": {name: os.environ[name] for name in os.environ if name[:6] in ("OMP_NU", "PYTHON", "CUDA_V")},
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "cli": "moto_pl.cli" in sys.modules, "stdin": os.readlink("/proc/self/fd/0"),
    }))
    print("said", file=sys.stderr)
    sys.exit(7)
"""


def test_a_warm_process_finds_what_a_cold_one_finds(script: Script) -> None:
    words = script(LOOK)
    found = warm.run(words, environment(), 60)
    cold = subprocess.run(
        [sys.executable, "-m", *words], env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert (found.returncode, found.stderr) == (cold.returncode, cold.stderr) == (7, "said\n")
    one, other = json.loads(found.stdout), json.loads(cold.stdout)
    settings = one.pop("environment")  # which has what imports have set beside
    assert other.pop("environment").items() <= settings.items()
    assert one == other


def test_each_has_random_numbers_of_its_own(script: Script) -> None:
    code = "import os, random\nimport numpy as np\nprint(os.getpid(), random.random(), np.random.random())"
    words = script(code)
    first, second = (warm.run(words, environment(), 60).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


def test_what_is_registered_for_the_end_runs(script: Script, tmp_path: Path) -> None:
    words = script(f"import atexit, pathlib\natexit.register(pathlib.Path({str(tmp_path / 'end')!r}).touch)")
    assert warm.run(words, environment(), 60).returncode == 0 and (tmp_path / "end").exists()
    failed = warm.run(script("raise KeyError('x')"), environment(), 60)
    assert failed.returncode == 1 and failed.stderr.endswith("KeyError: 'x'\n")


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "sys.exit(3)", "sys.exit(True)", "sys.exit('why')", "1 / 0"])
def test_it_ends_as_a_cold_one_does(end: str, script: Script) -> None:
    """Threads are waited for, then what is registered runs, then all that was said is there."""
    code = f"""
        import atexit, sys, threading, time
        def late():
            time.sleep(0.2)
            sys.stdout.write("late ")
        atexit.register(lambda: sys.stdout.write("end "))
        threading.Thread(target=late).start()
        threading.Thread(target=time.sleep, args=[600], daemon=True).start()
        sys.stdout.write("begun ")
        {end}
    """
    words = script(code)
    found = warm.run(words, environment(), 60)
    cold = subprocess.run([sys.executable, "-m", *words], env=environment(), capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (cold.returncode, cold.stdout)
    assert found.stdout == "begun late end " and found.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_it_starts_processes_as_a_cold_one_does(script: Script) -> None:
    """Spawned ones find the module by its name, and nothing of the server's in it."""
    code = """
        import multiprocessing
        def square(x: int) -> int:
            return x * x
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(square, [3]), square.__module__)
    """
    done = warm.run(script(code), environment(), 60)
    assert done.stdout == "[9] __main__\n", done.stderr


def test_signals_end_it(script: Script, tmp_path: Path) -> None:
    process = warm.start(script("import time\nopen('here', 'w').close()\ntime.sleep(600)"), environment())
    assert isinstance(process, warm.Process) and process.poll() is None
    while not (tmp_path / "here").exists():
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait() == process.poll() == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
    process.kill()  # of which there is none any more


def test_what_does_not_end_is_killed(script: Script, tmp_path: Path) -> None:
    words = script("import os, time\nopen('here', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(words, environment(), 2)
    assert not Path(f"/proc/{(tmp_path / 'here').read_text()}").exists()


def test_children_that_are_left_behind_are_waited_for(script: Script) -> None:
    """They hold the output, as those of a cold process do."""
    words = script("import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 1; echo late'])")
    assert warm.run(words, environment(), 60).stdout == "late\n"


def test_each_has_its_commands_environment(script: Script) -> None:
    """And the next has nothing of it."""
    words = script("import os, sys\nprint('torch' in sys.modules, *(os.environ.get(f'MOTO_TEST_{x}') for x in 'AB'))")
    other = {name: value for name, value in environment().items() if name != "MOTO_TEST_A"} | {"MOTO_TEST_B": "2"}
    assert warm.run(words, other, 60).stdout == "True None 2\n"
    assert warm.run(words, environment(), 60).stdout == "True 1 None\n"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "LD_LIBRARY_PATH"])
def test_another_environment_of_libraries_starts_cold(name: str, script: Script) -> None:
    words = script(f"import sys, os\nprint('torch' in sys.modules, os.environ['{name}'])")
    other = {**environment(), name: "7"}
    assert warm.run(words, other, 60).stdout == "False 7\n"
    assert isinstance(warm.start(words, other), subprocess.Popen)
    without = {one: value for one, value in environment().items() if one != "OMP_NUM_THREADS"}
    assert warm.server(without) is None


def test_an_order_of_hashes_has_a_server(script: Script) -> None:
    """A killed run has another order than the one that goes on, and both are warm."""
    words, other = script("import sys\nprint('torch' in sys.modules, hash('order'))"), {"PYTHONHASHSEED": "1"}
    cold = subprocess.run(
        [sys.executable, "-c", "print(hash('order'))"], env=environment() | other, capture_output=True, text=True
    )
    found = [warm.run(words, environment() | other, 60).stdout for _ in range(2)]
    assert found == 2 * [f"True {cold.stdout}"] and warm.run(words, environment(), 60).stdout != found[0]
    assert warm.run(words, environment() | other | {"MKL_VERBOSE": "0"}, 60).stdout == f"False {cold.stdout}"


def test_cold_when_asked_for(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_TESTS_COLD", "1")
    assert warm.run(script("import sys\nprint('torch' in sys.modules)"), environment(), 60).stdout == "False\n"


def test_nothing_outlives_who_asked_for_it(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends with the tests, however they end, and its children with it."""
    words = script("import os, time\nopen('here', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    code = f"""
        import os, time, warm
        server = warm.Server({{**os.environ}}, ["numpy"])
        with open(os.devnull, "wb") as nothing:
            server.start({words!r}, server.environment, nothing.fileno(), nothing.fileno())
        print(server.process.pid, flush=True)
        while not os.path.exists("here"):
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
    """
    path = os.pathsep.join([str(Path(warm.__file__).parent), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**environment(), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    numbers = [done.stdout.strip(), (tmp_path / "here").read_text()]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{number}").exists() for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [number for number in numbers if Path(f"/proc/{number}").exists()]
