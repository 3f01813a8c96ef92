"""Several environments stepped in parallel, each in a process that may hang or die without taking the run along.

A worker is a fresh Python process, started with nothing but the environment's id and arguments: it shares no OpenGL
context, no CUDA and no locks with the parent, and does not import the parent's main module. Commands and small results
go through a socket, images through shared memory that has no name, so that nothing is left behind however a process
ends. By hand, on purpose: gymnasium's AsyncVectorEnv does not replace a worker that hangs or dies.

One of the package's two pools of processes: this one steps environments together, because a policy acts on all their
frames at once. Jobs that have nothing to do with one another are for :mod:`moto_pl.datasets.parallel`.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, cast

import gymnasium as gym
import numpy as np

from moto_pl import signals
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.checks import NO_LIMIT_SET, EpisodeLimit, check_image_size, close
from moto_pl.envs.observation import IMAGE_ALONE, Observation, ObservationConfig
from moto_pl.envs.rendering import software_fallback
from moto_pl.errors import SettingError
from moto_pl.rollout.host import Host, Hosted
from moto_pl.threads import ONE_THREAD

START_TIMEOUT_S = 180.0
"""How long a worker may take to import the simulator and create its environment, on a busy machine."""
MAX_RESTARTS = 3
_SIGNAL_CHECK_S = 0.2
_DOCTOR = "Run `moto doctor` to check the renderer."
_MAIN = "import sys; sys.path[:] = {path!r}; from moto_pl.rollout.pool import _worker; _worker({fd}, {memory})"


class WorkerRestarted(Exception):
    """A worker died or hung and has been replaced: the episodes in progress have to be replayed from their seeds.

    Attributes:
        index: which worker.
        reason: what happened to it.
    """

    def __init__(self, index: int, reason: str) -> None:
        self.index, self.reason = index, reason
        super().__init__(f"environment worker {index} {reason} and was replaced")


class EnvPool:
    """Environments of one kind, stepped in lockstep.

    Args:
        env_id: as for :func:`moto_pl.envs.make`.
        env_kwargs: the environment's arguments.
        num_workers: processes; 0 runs one environment in this process.
        timeout_s: a worker that has not answered a reset or step after so many seconds is killed and replaced.
        limit: where an episode is cut off (truncated) that has not ended by itself, with one warning.
        image_size: height and width of images: those of others' environments are resized to it; None takes any.
        wanted: what of the environment's observations is learned from.
        scale: what policies' actions, which are in [-1, 1], stand for; None: they span the environment's Box.
        action_repeat: steps of the environment for each action.

    Attributes:
        action_space: of one environment, in its own numbers.
        observation: what is learned from, with the vectors' sizes.
        vector: the state vectors seen with the images that were last returned, float32 [n, V]; None where none is
            learned from.
        image_size: height of an image in pixels.
        image_shape: height, width, channels of all cameras.
        resized: which cameras' images are resized, and from what, in words; empty where none is.
        capacity: how many environments there are, ``max(num_workers, 1)``.
        max_episode_steps: where an episode is cut off, in the environment's steps.

    Raises:
        SettingError: the environment refuses its arguments, raises, or is not as :mod:`moto_pl.envs.checks` wants it,
            for which it is reset and stepped once; a worker cannot be started; or an argument here is out of its
            range.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any] | None,
        num_workers: int,
        timeout_s: float = 60.0,
        limit: EpisodeLimit = NO_LIMIT_SET,
        image_size: int | None = None,
        wanted: ObservationConfig = IMAGE_ALONE,
        scale: ActionScale | None = None,
        action_repeat: int = 1,
    ) -> None:
        if num_workers < 0:
            raise SettingError("num_workers", num_workers, "Use 0 (in this process) or more.")
        if timeout_s <= 0:
            raise SettingError("timeout_s", timeout_s, "Use a number of seconds above 0.")
        self.env_id, self.num_workers, self.timeout_s = env_id, num_workers, timeout_s
        self.capacity = max(num_workers, 1)
        self._hosted = Hosted(env_id, dict(env_kwargs or {}), limit, wanted, scale, image_size, action_repeat)
        self.observation = Observation()
        self.vector: np.ndarray | None = None
        self._active = 0
        self._restarts = 0
        self._gl: dict[str, str] = {}
        self._host: Host | None = None
        self._workers: list[_Worker] = []
        self._memory: Any = None
        self._said_cut, self.resized = False, ""
        try:
            space = self._open()
            if image_size is not None:
                check_image_size(env_id, wanted.cameras[0], (*self.image_shape[:2], 3), image_size)
            self._try_out()
        except _Lost as lost:
            self.close()
            raise SettingError("data.env", f"{env_id}, whose worker {lost} while it started", _DOCTOR) from None
        except BaseException:
            self.close()
            raise
        assert isinstance(space, gym.spaces.Box)
        self.action_space: gym.spaces.Box = space
        self.image_size = self.image_shape[0]

    def _open(self) -> gym.Space[Any]:
        """Makes the environments; returns the space of their actions."""
        if self.num_workers == 0:
            self._host = Host(self._hosted)
            self.image_shape, self.max_episode_steps = self._host.image_shape, self._host.limit
            self.observation, self.resized = self._host.observation, self._host.checks.resized
            self._images = np.zeros((1, *self.image_shape), np.uint8)
            return self._host.action_space
        self._memory = tempfile.TemporaryFile(dir=_memory_directory())
        self._workers = [self._start(index) for index in range(self.num_workers)]
        for worker in self._workers:
            space, self.image_shape, self.max_episode_steps, self.observation, self.resized = worker.await_ready()
        self._images = self._shared_images()
        for index in range(self.num_workers):
            self._attach(index)
        return space

    def _shared_images(self) -> np.ndarray:
        size = self.num_workers * int(np.prod(self.image_shape))
        try:
            os.posix_fallocate(self._memory.fileno(), 0, size)  # taken now: what is missing later is a SIGBUS
        except OSError as error:
            where = _memory_directory() or tempfile.gettempdir()
            raise SettingError(
                "data.env_workers",
                f"{self.num_workers}, whose frames take {size} bytes of {where} ({error.strerror})",
                f"Use fewer workers, or give {where} more room (docker run --shm-size).",
            ) from error
        return _map(self._memory.fileno(), self.num_workers, self.image_shape)

    def _try_out(self) -> None:
        if self._host is not None:
            self._host.try_out(self._images[0])
            return
        while True:
            try:
                self._exchange([("try out", None)])
                return
            except WorkerRestarted:
                continue

    def reset(self, seeds: Sequence[int], beyond: int = 0) -> np.ndarray:
        """Begin an episode in the first ``len(seeds)`` environments, each with its own seed.

        Args:
            seeds: one for each environment.
            beyond: steps that an environment takes after its episode was truncated, which is no end of the task; their
                rewards are real, and they are still marked as truncated.

        Returns:
            The first images, uint8 ``[n, H, W, 3]``, a copy.

        Raises:
            SettingError: no seeds, or more than environments; an environment raised or returned what it must not; or
                workers were lost too often in a row.
            WorkerRestarted: a worker was lost; call again.
            Stopped: a signal has come that was noted to be obeyed between steps.
        """
        signals.check()
        if not 1 <= len(seeds) <= self.capacity:
            raise SettingError("seeds", f"{len(seeds)} of them", f"Give 1 to {self.capacity}, one an environment.")
        self._active = len(seeds)
        if self._host is not None:
            vectors = [self._host.reset(int(seeds[0]), self._images[0], beyond)]
        else:
            vectors = self._exchange([("reset", (int(seed), beyond)) for seed in seeds])
        self._keep(vectors)
        return self._images[: self._active].copy()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the environments of the last reset, in parallel.

        An environment whose episode has ended, and that does not go ``beyond``, repeats its last image, flags and info
        with reward 0 until the next reset.

        Args:
            actions: float32 ``[n, A]`` in [-1, 1].

        Returns:
            Images uint8 ``[n, H, W, 3]`` (a copy), rewards float32 ``[n]``, terminated bool ``[n]``, truncated bool
            ``[n]``, and n infos.

        Raises:
            SettingError: an environment raised or returned what it must not, or workers were lost too often in a row.
            WorkerRestarted: a worker was lost; the environments have to be reset.
            Stopped: a signal has come that was noted to be obeyed between steps.
        """
        signals.check()
        if not self._active:
            raise RuntimeError("EnvPool.step needs a reset first")
        actions = np.asarray(actions, np.float32)
        if len(actions) != self._active:
            raise SettingError("actions", f"{len(actions)} of them", f"Give {self._active}, as many as seeds.")
        if self._host is not None:
            steps = [self._host.step(actions[0], self._images[0])]
        else:
            steps = self._exchange([("step", action) for action in actions])
        if all(step.ended for step in steps):
            self._restarts = 0  # whole episodes pass again
        if any(step.cut for step in steps):
            self._say_cut()
        self._keep([step.vector for step in steps])
        return (
            self._images[: self._active].copy(),
            np.array([step.reward for step in steps], np.float32),
            np.array([step.terminated for step in steps]),
            np.array([step.truncated for step in steps]),
            [dict(step.info) for step in steps],
        )

    def _keep(self, vectors: Sequence[np.ndarray | None]) -> None:
        self.vector = np.stack(cast(Sequence[np.ndarray], vectors)) if self._hosted.wanted.state else None

    def _say_cut(self) -> None:
        if not self._said_cut:
            self._said_cut = True
            warnings.warn(
                f"{self.env_id} did not end an episode within {self.max_episode_steps} steps: it is cut off there, as "
                "truncated. data.max_episode_steps allows more.",
                stacklevel=3,
            )

    def close(self) -> None:
        """End the workers, at once. Closing twice is harmless."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._host is not None:
            close(self._host.env, self.env_id)
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
            except signals.Stopped:
                self.close()  # answers are left over
                raise
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
        return _Worker(index, self._hosted, self._memory.fileno(), self._gl)

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
                raise SettingError(
                    "data.env",
                    f"{self.env_id}, whose workers failed {MAX_RESTARTS + 1} times in a row, and not one whole episode "
                    f"passed in between; the last one, worker {index}, {reason}",
                    _DOCTOR,
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

    def __init__(self, index: int, hosted: Hosted, memory: int, gl: Mapping[str, str]) -> None:
        self.index = index
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        # Blocked in the parent, thus in the child from its first instruction, until the child ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN.format(path=path, fd=theirs.fileno(), memory=memory)],
                # The workers are the parallelism: threads of their own would only compete.
                env={**os.environ, **ONE_THREAD, **gl},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._connection = Connection(ours.detach())
        self.send((hosted, f"environment worker {index}", os.getpid()))

    def await_ready(self) -> tuple[gym.Space[Any], tuple[int, int, int], int, Observation, str]:
        """Space of actions, image's shape, episodes' limit, what is seen and resized, once there is an environment."""
        return self.receive(time.monotonic() + START_TIMEOUT_S, START_TIMEOUT_S)

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            pass  # it is dead, which the receive that follows reports

    def receive(self, deadline: float, timeout_s: float) -> Any:
        """The answer; raises what the environment raised, or ``_Lost`` if none comes before ``deadline``."""
        try:
            while not self._connection.poll(min(_SIGNAL_CHECK_S, max(0.0, deadline - time.monotonic()))):
                signals.check()
                if time.monotonic() >= deadline:
                    raise _Lost(f"gave no answer within {timeout_s:g} s")
            kind, answer = self._connection.recv()
        except (EOFError, OSError):
            try:
                status = self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                raise _Lost("closed its connection") from None
            raise _Lost(f"died of signal {-status}" if status < 0 else f"exited with status {status}") from None
        if isinstance(answer, SettingError):
            raise answer
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


def _map(fd: int, count: int, image_shape: Sequence[int]) -> np.ndarray:
    size = count * int(np.prod(image_shape))
    return np.frombuffer(mmap.mmap(fd, size), np.uint8).reshape(count, *image_shape)


def _worker(fd: int, memory: int) -> None:
    """A worker process's main function: create the environment, then answer commands until the parent is gone."""
    signals.ignore()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
    connection = Connection(fd)
    try:
        *arguments, parent = connection.recv()
        # The socket's end tells an idle worker that the parent is gone; this tells a busy one.
        signals.end_with(parent)
        _serve(connection, memory, *arguments)
    except (EOFError, OSError):
        pass
    # No interpreter shutdown: drivers may hang in it.
    os._exit(0)


def _serve(connection: Connection, memory: int, hosted: Hosted, place: str) -> None:
    images = np.zeros(0, np.uint8)
    try:
        host = Host(hosted, place)
        facts = host.action_space, host.image_shape, host.limit, host.observation, host.checks.resized
        connection.send(("ready", facts))
    except Exception as error:
        connection.send(_report(error))
        return
    index = 0
    while True:
        command, argument = connection.recv()
        answer: Any = None
        try:
            if command == "attach":
                index, count, shape = argument
                images = _map(memory, count, shape)
            elif command == "reset":
                seed, beyond = argument
                answer = host.reset(seed, images[index], beyond)
            elif command == "try out":
                host.try_out(images[index])
            else:
                answer = host.step(argument, images[index])
            connection.send(("answer", answer))
        except (EOFError, OSError):
            raise
        except Exception as error:
            connection.send(_report(error))


def _report(error: Exception) -> tuple[str, Any]:
    if isinstance(error, SettingError):
        return "setting", error
    return "error", "".join(traceback.format_exception(error)).strip()
