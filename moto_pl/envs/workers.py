"""Several environments stepped in parallel, each in a process that may hang or die without taking the run along.

A worker is a fresh Python process, started with nothing but the environment's id and arguments: it shares no OpenGL
context, no CUDA and no locks with the parent, and does not import the parent's main module. Commands and small results
go through a socket, images through shared memory that has no name, so that nothing is left behind however a process
ends.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from moto_pl.envs import make
from moto_pl.envs.rendering import software_fallback
from moto_pl.errors import SettingError
from moto_pl.threads import ONE_THREAD

START_TIMEOUT_S = 180.0
"""How long a worker may take to import the simulator and create its environment, on a busy machine."""
MAX_RESTARTS = 3
_PARENT_DECIDES = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_MAIN = "import sys; sys.path[:] = {path!r}; from moto_pl.envs.workers import _worker; _worker({fd}, {memory})"


class WorkerRestarted(Exception):
    """A worker died or hung and has been replaced: the episodes in progress have to be replayed from their seeds.

    Attributes:
        index: which worker.
        reason: what happened to it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason
        super().__init__(f"environment worker {index} {reason} and was replaced")


class _Step(NamedTuple):
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class _Host:
    """One environment that writes its image to ``out``. After an episode's end it repeats the last frame, unpaid."""

    def __init__(self, env_id: str, env_kwargs: Mapping[str, Any]) -> None:
        self.env = make(env_id, **env_kwargs)
        space = self.env.observation_space
        image = space["image"] if isinstance(space, gym.spaces.Dict) and "image" in space.keys() else None
        if image is None or image.dtype != np.uint8 or image.shape is None or len(image.shape) != 3:
            raise SettingError("env_id", env_id, "Use one that observes a Dict with a uint8 'image' [H, W, 3].")
        actions = self.env.action_space
        if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
            raise SettingError("env_id", f"{env_id}, with actions {actions}", "Use one with a flat Box of actions.")
        self.image_shape: tuple[int, int, int] = image.shape
        self._last: _Step | None = None

    def reset(self, seed: int, out: np.ndarray) -> None:
        observation, _ = self.env.reset(seed=seed)
        out[...] = observation["image"]
        self._last = None

    def step(self, action: np.ndarray, out: np.ndarray) -> _Step:
        if self._last is None:
            observation, reward, terminated, truncated, info = self.env.step(action)
            out[...] = observation["image"]
            step = _Step(float(reward), bool(terminated), bool(truncated), info)
            if terminated or truncated:
                self._last = step._replace(reward=0.0)
            return step
        return self._last


class EnvPool:
    """Environments of one kind, stepped in lockstep.

    Args:
        env_id: as for :func:`moto_pl.envs.make`.
        env_kwargs: the environment's arguments.
        num_workers: processes; 0 runs one environment in this process.
        timeout_s: a worker that has not answered a reset or step after so many seconds is killed and replaced.

    Attributes:
        action_space: of one environment.
        image_size: height of an image in pixels.
        image_shape: height, width, channels.
        capacity: how many environments there are, ``max(num_workers, 1)``.

    Raises:
        SettingError: the environment refuses its arguments, or an argument here is out of its range.
        RuntimeError: a worker cannot be started.
    """

    def __init__(
        self, env_id: str, env_kwargs: Mapping[str, Any] | None, num_workers: int, timeout_s: float = 60.0
    ) -> None:
        if num_workers < 0:
            raise SettingError("num_workers", num_workers, "Use 0 (in this process) or more.")
        if timeout_s <= 0:
            raise SettingError("timeout_s", timeout_s, "Use a number of seconds above 0.")
        self.env_id, self.env_kwargs, self.num_workers = env_id, dict(env_kwargs or {}), num_workers
        self.capacity, self.timeout_s = max(num_workers, 1), timeout_s
        self._active = 0
        self._restarts = 0
        self._gl: dict[str, str] = {}
        self._host: _Host | None = None
        self._workers: list[_Worker] = []
        self._memory: Any = None
        if num_workers == 0:
            self._host = _Host(env_id, self.env_kwargs)
            space, self.image_shape = self._host.env.action_space, self._host.image_shape
            self._images = np.zeros((1, *self.image_shape), np.uint8)
        else:
            self._memory = tempfile.TemporaryFile(dir=_memory_directory())
            try:
                self._workers = [self._start(index) for index in range(num_workers)]
                for worker in self._workers:
                    space, self.image_shape = worker.await_ready()
                self._images = _map(self._memory.fileno(), num_workers, self.image_shape, grow=True)
                for index in range(num_workers):
                    self._attach(index)
            except _Lost as lost:
                self.close()
                fix = "Run `moto doctor` to check the renderer."
                raise RuntimeError(f"{env_id}: environment worker {lost} while it started. {fix}") from None
            except BaseException:
                self.close()
                raise
        assert isinstance(space, gym.spaces.Box)
        self.action_space: gym.spaces.Box = space
        self.image_size = self.image_shape[0]

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Begin an episode in the first ``len(seeds)`` environments, each with its own seed.

        Returns:
            The first images, uint8 ``[n, H, W, 3]``, a copy.

        Raises:
            SettingError: no seeds, or more than environments.
            WorkerRestarted: a worker was lost; call again.
            RuntimeError: an environment raised, or workers were lost too often in a row.
        """
        if not 1 <= len(seeds) <= self.capacity:
            raise SettingError("seeds", f"{len(seeds)} of them", f"Give 1 to {self.capacity}, one an environment.")
        self._active = len(seeds)
        if self._host is not None:
            self._host.reset(int(seeds[0]), self._images[0])
        else:
            self._exchange([("reset", int(seed)) for seed in seeds])
        return self._images[: self._active].copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the environments of the last reset, in parallel.

        An environment whose episode has ended repeats its last image, flags and info with reward 0 until the next
        reset.

        Args:
            actions: float32 ``[n, A]``.

        Returns:
            Images uint8 ``[n, H, W, 3]`` (a copy), rewards float32 ``[n]``, terminated bool ``[n]``, truncated bool
            ``[n]``, and n infos.

        Raises:
            WorkerRestarted: a worker was lost; the environments have to be reset.
            RuntimeError: an environment raised, or workers were lost too often in a row.
        """
        if not self._active:
            raise RuntimeError("EnvPool.step needs a reset first")
        actions = np.asarray(actions, np.float32)
        if len(actions) != self._active:
            raise SettingError("actions", f"{len(actions)} of them", f"Give {self._active}, as many as seeds.")
        if self._host is not None:
            steps = [self._host.step(actions[0], self._images[0])]
        else:
            steps = self._exchange([("step", action) for action in actions])
        if all(step.terminated or step.truncated for step in steps):
            self._restarts = 0  # whole episodes pass again
        return (
            self._images[: self._active].copy(),
            np.array([step.reward for step in steps], np.float32),
            np.array([step.terminated for step in steps]),
            np.array([step.truncated for step in steps]),
            [dict(step.info) for step in steps],
        )

    def close(self) -> None:
        """End the workers, at once. Closing twice is harmless."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._host is not None:
            self._host.env.close()
            self._host = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._active = 0

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _exchange(self, commands: Sequence[tuple[str, Any]]) -> list[Any]:
        """Send each worker its command and gather every answer before a failure is reported: none is left over."""
        answers: list[Any] = []
        failed: dict[int, str] = {}
        deadline = time.monotonic() + self.timeout_s
        for worker, command in zip(self._workers, commands, strict=False):
            worker.send(command)
        for index in range(len(commands)):
            try:
                answers.append(self._workers[index].receive(deadline, self.timeout_s))
            except _Lost as lost:
                failed[index] = str(lost)
            except Exception as error:
                answers.append(error)
        for index, reason in failed.items():
            self._replace(index, reason)
        if failed:
            self._active = 0
            index, reason = next(iter(failed.items()))
            raise WorkerRestarted(index, reason)
        for answer in answers:
            if isinstance(answer, Exception):
                self._active = 0
                raise answer
        return answers

    def _start(self, index: int) -> _Worker:
        return _Worker(index, self.env_id, self.env_kwargs, self._memory.fileno(), self._gl)

    def _fall_back(self) -> None:
        """Draw with OSMesa from now on, where EGL was used and OSMesa works: replacements alone see the difference."""
        before = os.environ.get("MUJOCO_GL", "")
        backend = software_fallback(before)
        if backend != before:
            warnings.warn(
                f"environment workers keep failing with MUJOCO_GL={before}: their replacements use {backend}",
                stacklevel=2,
            )
            self._gl = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}

    def _attach(self, index: int) -> None:
        self._workers[index].send(("attach", (index, self.num_workers, self.image_shape)))
        self._workers[index].receive(time.monotonic() + START_TIMEOUT_S, START_TIMEOUT_S)

    def _replace(self, index: int, reason: str) -> None:
        while True:
            self._workers[index].kill()
            self._restarts += 1
            if self._restarts == 2:  # twice in a row is no accident
                self._fall_back()
            if self._restarts > MAX_RESTARTS:
                self.close()
                raise RuntimeError(
                    f"{self.env_id}: environment workers failed {MAX_RESTARTS + 1} times in a row, and not one whole "
                    f"episode passed in between; the last one, worker {index}, {reason}. "
                    "Run `moto doctor` to check the renderer."
                )
            try:
                self._workers[index] = self._start(index)
                self._workers[index].await_ready()
                self._attach(index)
                return
            except _Lost as lost:
                reason = str(lost)


class _Lost(Exception):
    """A worker gave no answer; the text says why, as in "worker 1 <text>"."""


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, index: int, env_id: str, env_kwargs: dict[str, Any], memory: int, gl: Mapping[str, str]) -> None:
        self.index = index
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        # Blocked in the parent, thus in the child from its first instruction, until the child ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_DECIDES)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN.format(path=path, fd=theirs.fileno(), memory=memory)],
                env={**_worker_environment(), **gl},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._connection = Connection(ours.detach())
        self.send((env_id, env_kwargs, os.getpid()))

    def await_ready(self) -> tuple[gym.Space[Any], tuple[int, int, int]]:
        """The action space and the image's shape, once the environment has been created."""
        return self.receive(time.monotonic() + START_TIMEOUT_S, START_TIMEOUT_S)

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            pass  # it is dead, which the receive that follows reports

    def receive(self, deadline: float, timeout_s: float) -> Any:
        """The answer; raises what the environment raised, or ``_Lost`` if none comes before ``deadline``."""
        try:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise _Lost(f"gave no answer within {timeout_s:g} s")
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            try:
                status = self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                raise _Lost("closed its connection") from None
            raise _Lost(f"died of signal {-status}" if status < 0 else f"exited with status {status}") from None
        if kind == "setting":
            raise SettingError(*answer)
        if kind == "error":
            raise RuntimeError(f"environment worker {self.index} failed: {answer}")
        return answer

    def kill(self) -> None:
        self._connection.close()
        self.process.kill()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            pass  # stuck in a driver: it is gone once the driver lets go


def _memory_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _map(fd: int, count: int, image_shape: Sequence[int], grow: bool = False) -> np.ndarray:
    size = count * int(np.prod(image_shape))
    if grow:
        os.ftruncate(fd, size)
    return np.frombuffer(mmap.mmap(fd, size), np.uint8).reshape(count, *image_shape)


def _worker_environment() -> dict[str, str]:
    # The workers are the parallelism: threads of their own would only compete.
    return {**os.environ, **ONE_THREAD}


def _worker(fd: int, memory: int) -> None:
    """A worker process's main function: create the environment, then answer commands until the parent is gone."""
    for number in _PARENT_DECIDES:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENT_DECIDES)
    connection = Connection(fd)
    try:
        env_id, env_kwargs, parent = connection.recv()
        # The socket's end tells an idle worker that the parent is gone; this tells a busy one.
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
        _serve(connection, memory, env_id, env_kwargs)
    except (EOFError, OSError):
        pass
    # No interpreter shutdown: drivers may hang in it.
    os._exit(0)


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def _serve(connection: Connection, memory: int, env_id: str, env_kwargs: dict[str, Any]) -> None:
    images = np.zeros(0, np.uint8)
    try:
        host = _Host(env_id, env_kwargs)
        connection.send(("ready", (host.env.action_space, host.image_shape)))
    except Exception as error:
        connection.send(_report(error))
        return
    index = 0
    while True:
        command, argument = connection.recv()
        answer = None
        try:
            if command == "attach":
                index, count, shape = argument
                images = _map(memory, count, shape)
            elif command == "reset":
                host.reset(argument, images[index])
            else:
                answer = host.step(argument, images[index])
            connection.send(("answer", answer))
        except (EOFError, OSError):
            raise
        except Exception as error:
            connection.send(_report(error))


def _report(error: Exception) -> tuple[str, Any]:
    if isinstance(error, SettingError):
        return "setting", (error.setting, str(error.found), error.fix)
    return "error", "".join(traceback.format_exception(error)).strip()
