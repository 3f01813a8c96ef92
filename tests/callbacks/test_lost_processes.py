"""What is said of processes that are gone, and what is looked at before they start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from moto_pl.callbacks.peers import Peer, Peers
from moto_pl.errors import SettingError

CLOSED = "[/pytorch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711"


def trainer(world_size: int = 2, environment: Any = None, procs: tuple[Any, ...] = ()) -> Any:
    strategy = DDPStrategy(cluster_environment=environment or LightningEnvironment())
    strategy._launcher = SimpleNamespace(procs=procs)  # type: ignore[assignment]
    return SimpleNamespace(world_size=world_size, global_rank=0, strategy=strategy)


@pytest.fixture()
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture()
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        yield other.getsockname()[1]


def test_fates(sleeper: subprocess.Popen[bytes]) -> None:
    host = socket.gethostname()
    peer = Peer(host, sleeper.pid)
    assert peer.fate is None and Peer(host, os.getpid()).fate is None
    sleeper.send_signal(signal.SIGSTOP)
    wait_for(lambda: peer.fate == "is stopped")
    sleeper.kill()
    wait_for(lambda: peer.fate == "has ended")  # a zombie
    sleeper.wait()
    assert peer.fate == "has ended"
    assert Peer("elsewhere", sleeper.pid).fate is None  # nothing is known of another machine's


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_one_line_names_who_is_gone_and_nobody_is_left_behind(
    number: signal.Signals, sleeper: subprocess.Popen[bytes]
) -> None:
    peers, host = Peers(), socket.gethostname()
    peers._peers = [Peer(host, os.getpid()), Peer(host, sleeper.pid)]
    fate = "is stopped" if number == signal.SIGSTOP else "has ended"
    line = rf"^trainer.devices: found 2 processes in all, of which rank 1 \(process {sleeper.pid}\) {fate}"
    with pytest.raises(SettingError, match=line), peers.watched(trainer(procs=(sleeper,))):
        sleeper.send_signal(number)
        raise RuntimeError(CLOSED)
    assert sleeper.wait(5) == -signal.SIGKILL


def test_of_another_machine_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto_pl.callbacks.peers._LOOKS_S", 0.1)
    peers = Peers(7)
    peers._peers = [Peer(socket.gethostname(), os.getpid()), Peer("elsewhere", 1), Peer("elsewhere", 2)]
    with pytest.raises(SettingError, match=r"rank 1 or 2 on elsewhere does not answer \(waited at most 7 s\)"):
        with peers.watched(trainer()):
            raise RuntimeError("Timed out waiting 7000ms for recv operation to complete: gloo")


def test_processes_that_never_meet_are_one_line(sleeper: subprocess.Popen[bytes]) -> None:
    """As where another has not started, or waits at another port."""
    line = "^trainer.devices: found 2 processes in all, which have not come together .waited at most 9 s"
    with pytest.raises(SettingError, match=line), Peers(9).watched(trainer(procs=(sleeper,))):
        raise torch.distributed.DistStoreError("Timed out after 10 seconds waiting for clients. 1/2 clients joined.")
    assert sleeper.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize(("processes", "words"), [(1, CLOSED), (2, "mat1 and mat2 shapes cannot be multiplied")])
def test_other_errors_stay_what_they_are(processes: int, words: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(words)), Peers().watched(trainer(processes)):
        raise RuntimeError(words)


def test_the_bound_is_the_process_groups() -> None:
    of = trainer()
    Peers(12).check(of)
    assert of.strategy._timeout == timedelta(seconds=12)
    with pytest.raises(SettingError, match="peer_timeout_s: found 0"):
        Peers(0)


def test_a_port_in_use_is_refused(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", str(taken))
    with pytest.raises(SettingError, match=rf"^MASTER_PORT: found {taken}, which another program uses\. Give a free"):
        Peers().check(trainer())
    Peers().check(trainer(1))  # a single process needs none
    monkeypatch.setenv("LOCAL_RANK", "1")  # the first process has looked
    Peers().check(trainer())


def test_torchruns_own_port_is_not_looked_at(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_PORT": str(taken), "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    Peers().check(trainer(environment=TorchElasticEnvironment()))


@pytest.mark.parametrize("port", ["many", "-1", "70000"])
def test_a_port_that_is_none_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(SettingError, match=f"^MASTER_PORT: found {port}"):
        Peers().check(trainer())


def test_a_free_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    Peers().check(trainer())
