"""Two machines: each has a directory of its own, and a network between them that may drop."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import machines
from runs import assert_same_end, each_rank, environment, final, free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dropped(
    data: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Future[subprocess.CompletedProcess[str]]] | None]:
    """A run whose network drops, begun before the first test, because what it does is to wait; None where it cannot be.

    It ends with the time of its end in ``ended``.
    """
    run = tmp_path_factory.mktemp("dropped")
    drop = ("--trainer.callbacks+=faults.NetworkDownAt", "--trainer.callbacks.step=11")
    args = (*data, "--peer_timeout_s", "20", *drop, "--trainer.callbacks.link=moto0")

    def fit() -> subprocess.CompletedProcess[str]:
        done = machines.fit(run, *args, timeout=300)
        (run / "ended").touch()
        return done

    with ThreadPoolExecutor(1) as pool:
        yield None if machines.reason() is not None else (run, pool.submit(fit))


@pytest.mark.usefixtures("dropped")  # which has begun then
def test_two_machines_without_a_shared_disk(data: tuple[str, ...], tmp_path: Path) -> None:
    """Two torchrun agents on the loopback, each with a directory of its own, as on two machines; resumed once."""
    words = [machines.words(node, tmp_path, *data) for node in range(2)]
    port, first = free_port(), ("--data.online_steps", "10")
    parts = [machines.torchrun(node, [*words[node], *first], "127.0.0.1", port) for node in range(2)]
    agents = [subprocess.Popen(part, env=environment(), stderr=subprocess.PIPE, text=True) for part in parts]
    said = [agent.communicate(timeout=300)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    resumed = each_rank(words, timeout=300, machines=2)
    assert [one.returncode for one in resumed] == [0, 0], "\n".join(one.stderr for one in resumed)
    assert resumed[0].stdout.count("resuming") == 1 and "resuming" not in resumed[1].stdout + resumed[1].stderr
    # One process of all writes the evaluations.
    assert_same_end(tmp_path / "node0", tmp_path / "node1", evaluated=False)


def test_a_network_that_drops_ends_all_within_the_bound(
    dropped: tuple[Path, Future[subprocess.CompletedProcess[str]]] | None,
) -> None:
    """Every process ends, and says who does not answer."""
    if dropped is None:
        pytest.skip(f"two machines cannot be played: {machines.reason()}")
    run, ends = dropped
    done = ends.result()
    assert done.returncode != 0
    said = sorted(line for line in done.stderr.splitlines() if line.startswith("moto: "))
    assert len(said) == 2, done.stderr
    for line, other, own in zip(said, (0, 1), (1, 0), strict=True):
        found = rf"2 processes in all, of which rank {other} on host{other} does not answer \(waited at most 20 s\)"
        assert re.match(rf"moto: trainer.devices: found {found} \(rank {own} says so\)", line)
    assert "moto_pl/" not in done.stderr  # no traceback of ours; torchrun prints its own
    waited = (run / "ended").stat().st_mtime - (run / "node0/network_down").stat().st_mtime
    assert 18 < waited < 20 + 40  # the bound, and what a busy machine takes to end
    for node in range(2):
        assert final(run / f"node{node}")["global_step"] == 10
