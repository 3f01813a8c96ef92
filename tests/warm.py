"""Warm starts: processes that begin with everything imported, for tests that start many whole runs.

``moto fit`` of the debug configuration spends half of its processor time on imports (Lightning, torch's compiler).
So each pytest process keeps a server that has imported what a run imports, has one thread, and forks a child for each
command. The child has arguments, working directory, output, process number and random numbers of its own, runs the
module as ``python -m`` does, and ends as an interpreter does, but for taking apart what was imported, which is a third
of a second of its processor time.

What differs from a cold process, which is an interpreter of its own: the order of hashes and what is read from the
environment as libraries are loaded are the server's, the parent is the server, and the command line in ``/proc`` is the
server's. A command with a ``PYTHONHASHSEED`` has a server with that order; one with other values of the rest starts
cold. So these stay cold, each for what a warm start would hide:

* tests/test_threads.py and tests/training/test_memory.py: threads and the allocator are settled at the start;
* tests/campaigns: the runs, which a campaign starts itself, and which are found by their command lines;
* tests/rollout/test_pool.py, tests/datasets and the builders in tests/resume/test_signals.py: who ends with its parent;
* tests/test_cli.py, tests/envs: what is imported, and when;
* what a run starts by itself: the second rank (``runs.fit_ranks`` starts all of them), environment workers, collectors;
* ``make soak``, and everything where ``MOTO_TESTS_COLD=1`` is set.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

#: These import the others that a short run has imported at its end. Not ``moto_pl.cli``, which runs as ``__main__``.
MODULES = (
    *("moto_pl.training.launch", "moto_pl.training.cli", "moto_pl.datasets.builders", "moto_pl.datasets.kitchen"),
    *("moto_pl.envs.reach", "moto_pl.agents", "minari", "omegaconf", "torch._dynamo", "torch.utils.tensorboard"),
)
_READY = b"ready"
_REQUEST = 2**20  # bytes at most


class Process:
    """A child of the server, with what tests use of ``subprocess.Popen``."""

    def __init__(self, words: Sequence[str], status: socket.socket) -> None:
        self.args, self.pid = list(words), int(status.recv(64))
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status, minus a signal's number where one ended it; None while it runs."""
        return self._result(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one.

        Raises:
            subprocess.TimeoutExpired: there is none yet.
        """
        result = self._result(timeout)
        if result is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return result

    def _result(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            said = self._status.recv(64)
            self._status.close()
            assert said, "the server of warm starts has ended"
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that is forked.

    Args:
        environment: what it is started with.
        modules: what it imports.
    """

    def __init__(self, environment: dict[str, str], modules: Sequence[str] = MODULES) -> None:
        self.environment = _settled(environment)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno()), *modules]
            nowhere, quiet = subprocess.DEVNULL, {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # which a run sets before it imports
            self.process = subprocess.Popen(
                words, env=self.environment | quiet, pass_fds=[theirs.fileno()], stdin=nowhere, stdout=nowhere
            )
        assert self._socket.recv(64) == _READY, "the server of warm starts has not started"

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether libraries that were loaded with this environment would be those that it has."""
        return loaded(environment) == loaded(self.environment)

    def start(self, words: Sequence[str], environment: dict[str, str], stdout: int, stderr: int) -> Process:
        """Begins ``python -m`` of these words with an environment that it serves; output goes to these descriptors."""
        environment = _settled(environment)
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            other = {name: value for name, value in environment.items() if self.environment.get(name) != value}
            gone = [name for name in self.environment if name not in environment]
            content = {"words": list(words), "directory": os.getcwd(), "environment": other, "without": gone}
            request = json.dumps(content).encode()
            socket.send_fds(self._socket, [request], [stdout, stderr, theirs.fileno()])
        return Process(words, status)

    def close(self) -> None:
        """Ends it, and the children that are still there."""
        self._socket.close()
        self.process.wait()


_servers: dict[str, Server] = {}
"""By their order of hashes; "" is one by chance."""
_beginning = threading.Lock()


#: What a run sets for itself, and so does a test that renders or parses in pytest's own process.
_OWN = (
    *("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS", "SDL_AUDIODRIVER", "JSONARGPARSE_DEPRECATION_WARNINGS"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG", "TORCH_CPP_LOG_LEVEL"),
)
#: How the names of variables begin that are read once: by the interpreter, or by libraries as they are loaded.
_LOADED = (
    *("PYTHON", "LD_", "LC_", "LANG", "MALLOC", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "VECLIB_", "BLIS_", "GOMP_"),
    *("KMP_", "CUDA_", "TORCH_", "MPL", "HOME", "PATH"),
)


def _settled(environment: dict[str, str]) -> dict[str, str]:
    """Without what pytest says of the test of the moment, and without what earlier tests have left."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_") and name not in _OWN}


def loaded(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what is read once and is not a run's own: where it differs, a command has to start cold."""
    return {name: value for name, value in environment.items() if name.startswith(_LOADED) and name not in _OWN}


def server(environment: dict[str, str]) -> Server | None:
    """This process's server, begun with the first command; None where the command has to start cold."""
    if os.environ.get("MOTO_TESTS_COLD", "0") != "0":
        return None
    hashes = environment.get("PYTHONHASHSEED", "")
    with _beginning:
        if hashes not in _servers:
            _servers[hashes] = Server(environment)
            atexit.register(_servers[hashes].close)
    found = _servers[hashes]
    return found if found.serves(_settled(environment)) else None


def start(words: Sequence[str], environment: dict[str, str]) -> Process | subprocess.Popen[bytes]:
    """Begins ``python -m`` of these words, whose output nobody reads."""
    if (warm := server(environment)) is None:
        nowhere = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=nowhere, stderr=nowhere)
    with open(os.devnull, "wb") as nothing:
        return warm.start(words, environment, nothing.fileno(), nothing.fileno())


def run(words: Sequence[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """``python -m`` of these words to its end, and that of all that hold its output.

    Raises:
        subprocess.TimeoutExpired: it had not ended after ``timeout`` seconds, and was killed.
    """
    if (warm := server(environment)) is None:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    deadline, pipes = time.monotonic() + timeout, (os.pipe(), os.pipe())
    with os.fdopen(pipes[0][0], "rb", 0) as out, os.fdopen(pipes[1][0], "rb", 0) as err:
        process = warm.start(words, environment, pipes[0][1], pipes[1][1])
        for _, end in pipes:
            os.close(end)
        try:
            stdout, stderr = _read((out, err), deadline)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except BaseException:
            process.kill()
            process.wait()
            raise
    return subprocess.CompletedProcess(process.args, status, stdout, stderr)


def _read(pipes: Sequence[BinaryIO], deadline: float) -> list[str]:
    """What comes out of pipes until all of them are closed."""
    parts: list[list[bytes]] = [[] for _ in pipes]
    with selectors.DefaultSelector() as selector:
        for index, pipe in enumerate(pipes):
            selector.register(pipe, selectors.EVENT_READ, index)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired("a warm process", deadline)
            for key, _ in ready:
                if not (part := os.read(key.fd, 2**16)):
                    selector.unregister(key.fileobj)
                parts[key.data].append(part)
    # Line ends as text files have them.
    return [b"".join(said).decode().replace("\r\n", "\n").replace("\r", "\n") for said in parts]


# From here on it is the server's code, and its children's.


def _serve(requests: socket.socket) -> list[str]:
    """Forks a child for each request; returns in the child, with its words. Ends with the last of its clients."""
    children: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor of the process
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    requests.send(_READY)
    while True:
        for key, _ in selector.select():
            if key.fileobj is not requests:
                selector.unregister(key.fileobj)
                pid, status = children.pop(key.fd)
                os.close(key.fd)
                with suppress(BrokenPipeError), status:
                    status.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                continue
            message, descriptors, *_ = socket.recv_fds(requests, _REQUEST, 3)
            if not message:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                os._exit(0)
            assert len(os.listdir("/proc/self/task")) == 1, "a fork keeps one thread only"
            status = socket.socket(fileno=descriptors[2])
            if (pid := os.fork()) == 0:
                for descriptor, other in children.items():
                    os.close(descriptor)
                    other[1].close()
                selector.close()
                requests.close()
                status.close()
                return _begin(json.loads(message), descriptors[0], descriptors[1])
            for descriptor in descriptors[:2]:
                os.close(descriptor)
            descriptor = os.pidfd_open(pid)
            children[descriptor] = pid, status
            selector.register(descriptor, selectors.EVENT_READ)
            status.send(str(pid).encode())


def _begin(request: dict[str, Any], stdout: int, stderr: int) -> list[str]:
    """What a new interpreter would find."""
    import numpy as np

    for place, descriptor in ((1, stdout), (2, stderr)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(request["directory"])
    for name in request["without"]:
        os.environ.pop(name, None)
    os.environ.update(request["environment"])
    np.random.seed()  # the server's generator would be the same in all; random seeds itself anew
    words: list[str] = request["words"]
    return words


def _end(status: int) -> NoReturn:
    """What an interpreter does as it ends, up to taking itself apart."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    import gc
    import runpy

    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which is for the tests
    sys.path.pop(0)  # this file's directory, which python -m does not add
    for name in sys.argv[2:]:
        import_module(name)
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy all this
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, interrupted)
    sys.path.insert(0, os.getcwd())
    sys.argv[:] = words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise  # it says something
        code = ended.code or 0
    _end(code)
