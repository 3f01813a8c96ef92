"""Walks everything that a training process holds, so that two processes can be compared, whatever they have in them."""

from __future__ import annotations

import collections
import enum
import functools
import hashlib
import inspect
import io
import json
import logging
import multiprocessing.process
import os
import queue
import random
import re
import signal
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path, PurePath
from typing import Any, ClassVar

import lightning as L
import numpy as np
import rich.console
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from moto_pl.agents import MOTO
from moto_pl.replay.latents import LatentTable

#: Of these the kind is noted and nothing else: they are the process's own, or only refer to what is walked elsewhere.
OPAQUE = (
    *(threading.Thread, threading.Event, threading.Condition, type(threading.Lock()), type(threading.RLock())),
    *(threading.Semaphore, threading.local, queue.Queue, queue.SimpleQueue, io.IOBase, Connection),
    *(multiprocessing.process.BaseProcess, weakref.ReferenceType, types.GeneratorType, types.FrameType),
    *(logging.Logger, inspect.Signature, rich.console.Console, LightningCLI),
)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.dtype, torch.device, np.generic, np.dtype)


class Audit:
    """What was found, by the path that leads there."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._paths: dict[int, str] = {}
        self._kept: list[Any] = []  # ids are of living objects alone
        self._queue: collections.deque[tuple[str, Any]] = collections.deque()

    def walk(self, roots: Mapping[str, Any]) -> dict[str, str]:
        """Everything that can be reached."""
        self._queue.extend(roots.items())
        while self._queue:
            path, value = self._queue.popleft()
            self._take(path, value)
        return self.found

    def _take(self, path: str, value: Any) -> None:
        if isinstance(value, _PLAIN) or isinstance(value, enum.Enum):
            self.found[path] = repr(value)
            return
        if isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value):
            self.found[path] = repr(value)  # which of two equal ones it is makes no difference
            return
        if id(value) in self._paths:
            self.found[path] = f"-> {self._paths[id(value)]}"
            return
        self._paths[id(value)] = path
        self._kept.append(value)
        if isinstance(value, OPAQUE) or type(value) in (weakref.ProxyType, weakref.CallableProxyType):
            self.found[path] = f"<{type(value).__name__}>"
        elif isinstance(value, type | types.ModuleType):
            self.found[path] = repr(value)
        elif callable(value) and isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            self.found[path] = f"<function {value.__module__}.{value.__qualname__}>"
            for number, cell in enumerate(value.__closure__ or () if isinstance(value, types.FunctionType) else ()):
                if cell != types.CellType():
                    self._queue.append((f"{path}<{value.__code__.co_freevars[number]}>", cell.cell_contents))
        elif isinstance(value, types.MethodType):
            self.found[path] = f"<method {value.__func__.__qualname__}>"
            self._queue.append((f"{path}.__self__", value.__self__))
        else:
            self._take_object(path, value)

    def _take_object(self, path: str, value: Any) -> None:
        self.found[path] = f"<{type(value).__module__}.{type(value).__qualname__}>"
        state = _state(value)
        if state is not None:
            self.found[path] += f" {state}"
        if isinstance(value, Mapping):
            for number, (key, item) in enumerate(value.items()):
                name = repr(key) if isinstance(key, str | int | float | tuple) else f"#{number}"
                self._queue.append((f"{path}[{name}]", item))
        elif isinstance(value, set | frozenset):
            self.found[path] += f" {sorted(map(repr, value))}" if all(isinstance(x, _PLAIN) for x in value) else ""
            self.found[path] += f" of {len(value)}"
        elif isinstance(value, list | tuple | collections.deque):
            self.found[path] += f" of {len(value)}"
            for number, item in enumerate(value):
                self._queue.append((f"{path}[{number}]", item))
        elif isinstance(value, functools.partial):
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            self._queue.extend((f"{path}.{name}", part) for name, part in parts.items())
        self._queue.extend((f"{path}.{name}", item) for name, item in _attributes(value))


def _digest(*parts: bytes) -> str:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()


def _state(value: Any) -> str | None:
    """The content of what does not show it as attributes."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy() if value.numel() else np.zeros(0)
        return f"{value.dtype} {tuple(value.shape)} {_digest(data.tobytes())}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {_digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, torch.Generator):
        return _digest(value.get_state().numpy().tobytes())
    if isinstance(value, np.random.Generator):
        return _digest(repr(value.bit_generator.state).encode())
    if isinstance(value, random.Random):
        return _digest(repr(value.getstate()).encode())
    if isinstance(value, bytearray | memoryview):
        return _digest(bytes(value))
    if type(value).__module__ == "itertools":
        return repr(value)
    return None


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor | np.ndarray):
        return
    if isinstance(value, LatentTable) and value._parts is not None:
        rows = [part[: len(value)] for part in value._parts]  # beyond them is whatever the memory held before
        yield from sorted((vars(value) | {"_parts": rows}).items())
        return
    yield from sorted(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def process(trainer: L.Trainer) -> dict[str, str]:
    """All that this process holds: what the trainer leads to, the generators, and what our modules and classes keep."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # type: ignore[misc]
    roots: dict[str, Any] = {
        "agent": trainer.lightning_module,
        "data": trainer.datamodule,  # type: ignore[attr-defined]
        "optimizers": trainer.optimizers,
        "callbacks": {type(callback).__name__: callback for callback in trainer.callbacks},  # type: ignore[attr-defined]
        "trainer": trainer,
        "random": [list(random.getstate()), [str(kind), keys, position, has_gauss, gauss], torch.get_rng_state()],
    }
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in ("moto_pl", "audit"):
            continue
        for key, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == name:
                for attribute, held in vars(value).items():
                    if not attribute.startswith("__") and not callable(held) and not hasattr(held, "__get__"):
                        roots[f"{name}.{key}.{attribute}"] = held
            elif not key.startswith("__") and not callable(value) and not isinstance(value, types.ModuleType):
                roots[f"{name}.{key}"] = value
    return Audit().walk(roots)


_ANEW = "what the last evaluation has left; the next one makes it anew"
#: What may differ between an unbroken process and one that goes on, and why; all else is the same.
MAY_DIFFER = {
    # Of Lightning's own: where a process has begun, and what it has logged. None of it is asked for by a step.
    r"trainer\._checkpoint_connector\._ckpt_path": "the file that the process began with",
    r"trainer\.fit_loop\.(\w+\.)*(_loaded_from_state_dict|_restarting|_restart_stage)$": "that it has begun with one",
    r"trainer\.fit_loop\.(\w+\.)*_resuming_from_checkpoint$": "the same",
    r"trainer\.fit_loop\.epoch_loop\._results": "what has been logged in this round, for the means at its end",
    r"trainer\._logger_connector": "what was logged last",
    r"trainer\._loggers": "loggers: files of their own for each process, and what they have written",
    r"trainer\._last_val_time": "a time",
    r"trainer\.profiler\.dirpath": "a logger's directory",
    r"trainer\.fit_loop\.epoch_loop\.val_loop\.(_data_fetcher|_combined_loader|_results|_has_run|_module_mode)": _ANEW,
    r"trainer\.fit_loop\.epoch_loop\.val_loop\.(_max_batches|_last_val_dl_reload_epoch)": _ANEW,
    r"trainer\.fit_loop\._combined_loader\._iterator\._idx": "batches that this process has taken in this round",
    # Ours.
    r"data\._hparams": "empty; Lightning makes it as it first writes a checkpoint",
    r"callbacks\['EvaluateEpisodes'\]\.(_results|_videos)": "the last evaluation's, which it has written down",
    r"agent\.loaded_step": "the step of the checkpoint that was loaded; asked for by evaluations of checkpoints alone",
    r"callbacks\['EvaluateEpisodes'\]\.value_figures": "what the last evaluation found, which it has written down",
    r"callbacks\['CollectEpisodes'\]\.(collect_seconds|exchange_seconds)": "times",
    r"data\._loader\._loader\.wait_seconds": "a time",
    r"data\.store\._views": "which files are mapped: those that this process has drawn from",
    r"data\.store\._index": "what a directory says of its files, which are other ones",
    r"data\.store\.generation": "counts changes of the list of episodes, which is the same",
    r"callbacks\['CollectEpisodes'\]\._pool": "as the last episode left it: each begins with a seed of its own",
    r"callbacks\['Throughput'\]": "times, and where they were taken",
    r"callbacks\['RunProgress'\]\._shown": "a time",
    r"callbacks\['RunCheckpoint'\]\._saved": "the step of the last checkpoint, for a message",
}


def differences(left: Mapping[str, str], right: Mapping[str, str]) -> list[str]:
    """The paths at which two processes hold something else, where they may not."""
    different = sorted(path for path in {*left, *right} if left.get(path) != right.get(path))
    return [path for path in different if not any(covers(pattern, path) for pattern in MAY_DIFFER)]


def covers(pattern: str, path: str) -> bool:
    """Whether a pattern means what a path leads to: that name, and what is below it."""
    return re.match(rf"(?:{pattern})(?!\w)", path) is not None


class AuditAt(L.Callback):
    """Writes what the process holds as these gradient steps begin: ``<path>/<step>.json``.

    A process whose environment says ``AUDIT_STOP=26 SIGTERM`` sends itself that signal after that gradient step.
    """

    def __init__(self, steps: list[int], path: str) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps:
            found = process(trainer) | {f"batch{k}": v for k, v in Audit().walk({"": batch}).items()}
            Path(self.path).mkdir(parents=True, exist_ok=True)
            (Path(self.path) / f"{trainer.global_step}.json").write_text(json.dumps(found, indent=0))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, _, name = os.environ.get("AUDIT_STOP", "").partition(" ")
        if step == str(trainer.global_step):
            os.kill(os.getpid(), signal.Signals[name])


class _Forgets:
    """A counter of the steps that were taken, which nobody saves."""

    forgotten = 0

    def count(self) -> None:
        self.forgotten += 1


class ForgetfulMOTO(MOTO, _Forgets):
    """An agent with a field that its author forgot to save."""

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.count()


class ForgetfulCallback(L.Callback, _Forgets):
    """A callback with one, one that its class keeps, and one that it gives to the data module."""

    noted: ClassVar[dict[str, int]] = {}

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.count()
        self.noted["steps"] = self.noted.get("steps", 0) + 1
        trainer.datamodule.forgotten = self.forgotten


class Losses(L.Callback):
    """Writes the parts of each gradient step's loss: ``<path>``, a list of numbers for each."""

    def __init__(self, path: str) -> None:
        self.path, self.losses = path, dict[str, list[float]]()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        agent: Any = pl_module
        for name, part in agent.step_losses.items():
            self.losses.setdefault(name, []).append(float(part))
        Path(self.path).write_text(json.dumps(self.losses))
