"""Processes that train together: what is said when one of them is gone, and what is looked at before they start."""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from moto_pl.errors import SettingError, tell

from .run import gathered

#: What collectives' errors say of themselves, whatever carries them.
_COLLECTIVE = re.compile(r"gloo|nccl|ProcessGroup|TCPStore|Connection (closed|reset)|Broken pipe", re.IGNORECASE)
_ENDED, _STOPPED = "has ended", "is stopped"
_LOOKS_S = 2.0  # a process that was killed takes a moment to be gone
_GRACE_S = 20.0  # in which a collective says that a process has ended
_OBSERVER = "child-process-observer"  # Lightning's thread, which kills all processes as soon as one has ended


class Peer(NamedTuple):
    """A process that trains with others, by its rank's place in a list."""

    host: str
    pid: int

    @property
    def fate(self) -> str | None:
        """What has become of it, as far as this machine can tell; None where it runs."""
        if self.host != socket.gethostname():
            return None
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return _ENDED
        return {"Z": _ENDED, "X": _ENDED, "T": _STOPPED, "t": _STOPPED}.get(state)


class Peers(L.Callback):
    """Knows the processes that train together, so that a run that ends for one of them can name it.

    Args:
        timeout_s: seconds after which a process that does not answer ends the run.
    """

    def __init__(self, timeout_s: float = 1800.0) -> None:
        if not 0 < timeout_s < math.inf:
            raise SettingError("peer_timeout_s", timeout_s, "Give a number of seconds above 0.")
        self.timeout_s = timeout_s
        self._peers: list[Peer] = []

    def check(self, trainer: L.Trainer) -> None:
        """Refuses a port that is in use before any other process is started; sets how long one is waited for."""
        if trainer.world_size == 1:
            return
        strategy = cast(Any, trainer.strategy)
        if isinstance(strategy, DDPStrategy):
            strategy._timeout = timedelta(seconds=self.timeout_s)
            # So that gradients stay in the buckets of the first step. Torch would move them after it, once in each
            # process's life, and more than two processes add them up in another order from then on.
            strategy._ddp_kwargs["find_unused_parameters"] = True
            if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
                _set_up_apart(strategy)
        environment, port = strategy.cluster_environment, os.environ.get("MASTER_PORT")
        starts_others = isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally
        if port is None or not starts_others or environment.node_rank() > 0:
            return
        fix = "Give a free port, or leave it out: on one machine a free one is found."
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingError("MASTER_PORT", f"{port}, which another program uses", fix) from None
            raise SettingError("MASTER_PORT", f"{port} ({error.strerror})", fix) from None
        except (ValueError, OverflowError):
            raise SettingError("MASTER_PORT", port, fix) from None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Hears from every process which it is."""
        if trainer.world_size > 1 and not self._peers:
            self._peers = [Peer(*peer) for peer in gathered(trainer, (socket.gethostname(), os.getpid()))]
            self._ask_for_patience(trainer)

    def _ask_for_patience(self, trainer: L.Trainer) -> None:
        """Lets a collective's error be told before Lightning kills all; where none comes, the line is said first."""
        for observer in (thread for thread in threading.enumerate() if thread.name == _OBSERVER):
            kill_all = cast(Any, observer)._terminate_all

            def in_time(kill_all: Callable[[], None] = kill_all) -> None:
                time.sleep(_GRACE_S)
                tell(f"moto: {self._lost(trainer)}")
                kill_all()

            cast(Any, observer)._terminate_all = in_time

    @contextmanager
    def watched(self, trainer: L.Trainer) -> Iterator[None]:
        """Within it, what a collective says of a process that is gone becomes one line that names that process."""
        try:
            yield
        except RuntimeError as error:
            of_others = isinstance(error, torch.distributed.DistError) or _COLLECTIVE.search(str(error))
            if trainer.world_size == 1 or not of_others:
                raise
            if not self._peers:
                for process in _started(trainer):  # they would stay behind
                    process.kill()
                waited = f"(waited at most {self.timeout_s:g} s)"
                found = f"{trainer.world_size} processes in all, which have not come together {waited}"
                fix = "See that all were started, and reach MASTER_ADDR and MASTER_PORT, or give more --peer_timeout_s."
                raise SettingError("trainer.devices", found, fix) from None
            lost = self._lost(trainer)
            self._end_stopped()
            raise lost from None

    def _lost(self, trainer: L.Trainer) -> SettingError:
        own = trainer.global_rank
        found = f"{trainer.world_size} processes in all, of which {self._gone(own)} (rank {own} says so)"
        fix = "Look at what it said, if it did; the same command goes on from the last checkpoint."
        return SettingError("trainer.devices", found, fix)

    def _gone(self, own: int) -> str:
        end = time.monotonic() + _LOOKS_S
        while True:
            fates = [(rank, peer, peer.fate) for rank, peer in enumerate(self._peers)]
            named = [f"rank {rank} (process {peer.pid}) {fate}" for rank, peer, fate in fates if fate is not None]
            if named:
                time.sleep(max(0.0, end - time.monotonic()))  # the others are still looking for who was gone first
                return " and ".join(named)
            if time.monotonic() > end:
                return f"{self._others(own)} does not answer (waited at most {self.timeout_s:g} s)"
            time.sleep(0.05)

    def _others(self, own: int) -> str:
        """All who may be meant where every process on this machine runs: nobody sees into another machine."""
        hosts: dict[str, list[str]] = {}
        for rank, peer in enumerate(self._peers):
            if rank != own:
                hosts.setdefault(peer.host, []).append(str(rank))
        named = [f"rank {' or '.join(ranks)} on {host}" for host, ranks in hosts.items()]
        return " or ".join(named)

    def _end_stopped(self) -> None:
        """Ends those on this machine that are stopped, the one that started this one too: they would stay behind."""
        for peer in self._peers:
            if peer.fate == _STOPPED:
                with suppress(OSError):
                    os.kill(peer.pid, signal.SIGKILL)


def _set_up_apart(strategy: Any) -> None:
    """Has processes that torchrun starts again meet in a place of their own.

    They have the first ones' store, in which a dead process's address still is: who finds it connects to nobody.
    """
    set_up = strategy.setup_distributed

    def apart() -> None:
        rank, size, timeout = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), strategy._timeout)
        store, *_ = next(torch.distributed.rendezvous("env://", rank, size, timeout=timeout))
        store = torch.distributed.PrefixStore(f"start_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        device = strategy.root_device if strategy.root_device.type != "cpu" else None
        backend = strategy._get_process_group_backend()
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=device
        )
        set_up()  # which finds them together

    strategy.setup_distributed = apart


def _started(trainer: L.Trainer) -> Sequence[subprocess.Popen[bytes]]:
    return getattr(trainer.strategy.launcher, "procs", ())
